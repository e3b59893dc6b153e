"""Connections to one endpoint: reuse, names that move, and endpoints that are forgotten."""

from __future__ import annotations

import asyncio
import socket

import pytest

from kvroute.router.dataplane.contract import Endpoint, Failure
from kvroute.router.dataplane.limits import Limits
from tests.router.dataplane.stage import Replica, Stage, Wire, reached

POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Names:
    """A name service in which a test moves hosts about."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.asked = 0

    async def look_up(self, host: str, port: int) -> list[str]:
        self.asked += 1
        if not self.addresses:
            raise socket.gaierror("no such host")
        return self.addresses


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    service = Names()
    monkeypatch.setattr("kvroute.router.dataplane.pool.look_up", service.look_up)
    return service


async def exchange(client: Wire, replica: Replica, upstream: Wire | None = None) -> Wire:
    """One request to `replica`, on a connection that stands or on a new one."""
    await client.send(POST)
    upstream = upstream or await replica.accept()
    await upstream.message()
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK
    return upstream


async def test_a_name_that_moves_is_followed(empty_stage: Stage, names: Names) -> None:
    """When a host's addresses change, new connections go to the new one, and idle ones to the old are closed."""
    stage = await empty_stage.open(Limits(resolve_seconds=0.05, pool_idle_seconds=60, keep_alive_seconds=1))
    old = await stage.replica("127.0.0.2")
    new = Replica()
    new._server = await asyncio.start_server(new._accept, "127.0.0.3", old.endpoint.port)
    stage.director.route[:] = [Endpoint("engine.test", old.endpoint.port)]
    names.addresses = ["127.0.0.2"]
    client = await stage.client()
    upstream = await exchange(client, old)
    names.addresses = ["127.0.0.3"]
    await upstream.gone()
    await exchange(client, new)
    await new.stop()


async def test_every_address_is_tried(empty_stage: Stage, names: Names) -> None:
    """A host with a dead address is reached by its living one."""
    stage = await empty_stage.open()
    replica = await stage.replica("127.0.0.2")
    stage.director.route[:] = [Endpoint("engine.test", replica.endpoint.port)]
    names.addresses = ["127.0.0.9", "127.0.0.2"]
    await exchange(await stage.client(), replica)


async def test_a_name_service_that_fails_later_changes_nothing(empty_stage: Stage, names: Names) -> None:
    """What was resolved once stays until there is something newer."""
    stage = await empty_stage.open(Limits(resolve_seconds=0.01, keep_alive_seconds=1))
    replica = await stage.replica("127.0.0.2")
    stage.director.route[:] = [Endpoint("engine.test", replica.endpoint.port)]
    names.addresses = ["127.0.0.2"]
    client = await stage.client()
    first = await exchange(client, replica)
    names.addresses = []
    asked = names.asked
    await reached(lambda: names.asked > asked)
    first.close()
    await reached(lambda: stage.plane.pool(stage.director.route[0]).idle == 0)
    await exchange(client, replica)


async def test_a_connection_closed_on_arrival_is_a_failed_attempt(stage: Stage, client: Wire) -> None:
    """A replica that accepts and closes at once costs an attempt, never a hang."""

    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(slam, "127.0.0.1", 0)
    stage.director.route.append(Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]))
    await client.send(POST)
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    assert stage.director.journey.failures in ([Failure.CONNECT], [Failure.CUT])
    server.close()


async def test_keeps_no_more_than_it_may(empty_stage: Stage) -> None:
    """Beyond `pool_connections` a connection is closed after its reply."""
    stage = await empty_stage.open(Limits(pool_connections=1))
    replica = await stage.replica()
    clients = [await stage.client() for _ in range(2)]
    upstreams = []
    for client in clients:
        await client.send(POST)
        upstreams.append(await replica.accept())
        await upstreams[-1].message()
    for client, upstream in zip(clients, upstreams, strict=True):
        await upstream.send(OK)
        await client.exactly(len(OK))
    await upstreams[1].gone()
    assert stage.plane.pool(replica.endpoint).idle == 1


async def test_the_youngest_connection_is_used_first(stage: Stage, replica: Replica) -> None:
    """Old idle connections are left to time out."""
    clients = [await stage.client() for _ in range(2)]
    upstreams = []
    for client in clients:
        await client.send(POST)
        upstreams.append(await replica.accept())
        await upstreams[-1].message()
    for client, upstream in zip(clients, upstreams, strict=True):
        await upstream.send(OK)
        await client.exactly(len(OK))
    await exchange(clients[0], replica, upstreams[1])
