"""Stopping: no new connections, idle ones closed, exchanges finished or cut at the deadline."""

from __future__ import annotations

import asyncio

import pytest

from kvroute.router.dataplane.contract import Outcome
from kvroute.router.dataplane.limits import Limits
from tests.router.dataplane.stage import Replica, Stage, Wire, reached

POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: a\n\n\r\n"


async def test_drains_what_is_under_way(stage: Stage, client: Wire, replica: Replica) -> None:
    """A stream goes on to its end, then its connection closes; idle connections close at once."""
    idle = await stage.client()
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(SSE + EVENT)
    await client.until(b"\n\n\r\n")
    await reached(lambda: len(stage.plane.clients) == 2)
    draining = asyncio.ensure_future(stage.plane.drain(5))
    await idle.gone()
    with pytest.raises(ConnectionRefusedError):
        await stage.client()
    await upstream.send(EVENT + b"0\r\n\r\n")
    assert await client.rest() == EVENT + b"0\r\n\r\n"
    client.close()
    assert await draining is True
    assert stage.director.journey.outcomes == [Outcome.COMPLETED]


async def test_replies_begun_while_draining_say_close(stage: Stage, client: Wire, replica: Replica) -> None:
    """A reply whose head is written during the drain tells the client that the connection ends."""
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    draining = asyncio.ensure_future(stage.plane.drain(5))
    await asyncio.sleep(0)
    await upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
    assert await client.rest() == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nConnection: close\r\n\r\nhello"
    client.close()
    assert await draining is True


async def test_a_drain_has_a_deadline(stage: Stage, client: Wire, replica: Replica) -> None:
    """What has not ended by then is for `close`, which cuts it and settles it as failed."""
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(SSE + EVENT)
    await client.until(b"\n\n\r\n")
    assert await stage.plane.drain(0.05) is False
    await stage.plane.close()
    assert stage.director.journey.outcomes == [Outcome.FAILED]
    await upstream.gone()


async def test_several_addresses_and_shared_ports(empty_stage: Stage) -> None:
    """One data plane listens on more than one address, and SO_REUSEPORT lets two share one."""
    stage = await empty_stage.open()
    await stage.plane.start("127.0.0.1", 0, reuse_port=True)
    other = await Stage().open()
    await other.plane.start("127.0.0.1", stage.plane.ports[1], reuse_port=True)
    assert other.plane.ports[1] == stage.plane.ports[1]
    await other.close()


async def test_idle_replica_connections_are_closed(empty_stage: Stage) -> None:
    """A kept connection goes after `pool_idle_seconds`, before the engine would close it."""
    stage = await empty_stage.open(Limits(pool_idle_seconds=0.1))
    replica = await stage.replica()
    client = await stage.client()
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    await client.head()
    assert stage.plane.pool(replica.endpoint).idle == 1
    await upstream.gone()
    await reached(lambda: stage.plane.pool(replica.endpoint).idle == 0)
