"""Replicas that fail, and what their clients see of it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from kvroute.router.dataplane.contract import Endpoint, Failure, Outcome
from kvroute.router.dataplane.limits import Limits
from tests.router.dataplane.stage import Replica, Stage, Wire, reached

POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def closed_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_tries_the_next_endpoint_when_a_connection_is_refused(stage: Stage, client: Wire) -> None:
    """Nothing was sent, so the exchange's next endpoint is tried, and the client sees only the answer."""
    stage.director.route.append(Endpoint("127.0.0.1", closed_port()))
    replica = await stage.replica()
    await client.send(POST)
    upstream = await replica.accept()
    assert (await upstream.message())[1] == b"{}"
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK
    assert stage.director.journey.notes == ["failed connect", "body_sent", "replied 200", "tail", "completed"]


async def test_answers_what_the_exchange_says_when_all_fail(stage: Stage, client: Wire) -> None:
    """A Reply from `failed` is the client's answer, and the exchange has failed."""
    stage.director.route.append(Endpoint("127.0.0.1", closed_port()))
    await client.send(POST)
    assert (await client.head()).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert stage.director.journey.outcomes == [Outcome.FAILED]


async def test_gives_up_connecting_in_time(empty_stage: Stage) -> None:
    """A replica that never completes the connection is a connect failure after `connect_seconds`."""
    stage = await empty_stage.open(Limits(connect_seconds=0.1))
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        stage.director.route.append(Endpoint("127.0.0.1", deaf.getsockname()[1]))
        client = await stage.client()
        await client.send(POST)
        assert (await client.head()).startswith(b"HTTP/1.1 502 ")
        assert stage.director.journey.failures == [Failure.CONNECT]
        for filler in fillers:
            filler.close()


async def test_an_unknown_host_is_a_connect_failure(stage: Stage, client: Wire) -> None:
    """A name that does not resolve is tried no further."""
    stage.director.route.append(Endpoint("no-such-host.invalid", 1))
    await client.send(POST)
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    assert stage.director.journey.failures == [Failure.CONNECT]


async def test_retries_a_stale_connection_on_a_fresh_one(stage: Stage, client: Wire, replica: Replica) -> None:
    """A kept connection that closes before it answers is reported as stale; the next try opens a new one."""
    stage.director.route.append(replica.endpoint)
    await client.send(POST)
    first = await replica.accept()
    await first.message()
    await first.send(OK)
    await client.exactly(len(OK))
    await client.send(POST)
    await first.message()
    first.close()
    second = await replica.accept()
    assert (await second.message())[1] == b"{}"
    await second.send(OK)
    assert await client.exactly(len(OK)) == OK
    assert stage.director.journey.failures == [Failure.STALE]


async def test_forgets_a_connection_that_closes_while_idle(stage: Stage, client: Wire, replica: Replica) -> None:
    """A replica that closes an idle connection costs nobody a failure."""
    await client.send(POST)
    first = await replica.accept()
    await first.message()
    await first.send(OK)
    await client.exactly(len(OK))
    first.close()
    pool = stage.plane.pool(replica.endpoint)
    await reached(lambda: not pool.idle)
    await client.send(POST)
    second = await replica.accept()
    await second.message()
    await second.send(OK)
    assert await client.exactly(len(OK)) == OK
    assert stage.director.journey.failures == []


async def test_an_unasked_reply_costs_the_connection(stage: Stage, client: Wire, replica: Replica) -> None:
    """Bytes on an idle connection cannot become somebody's answer."""
    await client.send(POST)
    first = await replica.accept()
    await first.message()
    await first.send(OK)
    await client.exactly(len(OK))
    await first.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    pool = stage.plane.pool(replica.endpoint)
    await reached(lambda: not pool.idle)
    await client.send(POST)
    second = await replica.accept()
    await second.message()
    await second.send(OK)
    assert await client.exactly(len(OK)) == OK


async def test_a_cut_before_the_reply_may_be_retried(stage: Stage, client: Wire, replica: Replica) -> None:
    """The connection breaks after the body was sent: CUT, and the other endpoint is tried."""
    other = await stage.replica()
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    upstream.abort()
    upstream = await other.accept()
    await upstream.message()
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK
    assert stage.director.journey.failures == [Failure.CUT]


async def test_a_streams_head_is_held_until_its_first_body_byte(stage: Stage, client: Wire, replica: Replica) -> None:
    """A streaming 200 that breaks before its first body byte can still be tried elsewhere, unseen by the client."""
    other = await stage.replica()
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(SSE, b"1")
    await asyncio.sleep(0.01)
    assert client.silent()
    upstream.abort()
    upstream = await other.accept()
    await upstream.message()
    await upstream.send(SSE + b"9\r\ndata: a\n\n\r\n0\r\n\r\n")
    assert await client.head() == SSE
    assert await client.until(b"0\r\n\r\n") == b"9\r\ndata: a\n\n\r\n0\r\n\r\n"
    assert stage.director.journey.notes == [
        "body_sent",
        "replied 200 streaming",
        "failed cut",
        "body_sent",
        "replied 200 streaming",
        "first_output",
        "completed",
    ]


@pytest.mark.parametrize("events", [1, 100])
async def test_nothing_is_told_of_a_segment_that_is_not_sound(
    stage: Stage, client: Wire, replica: Replica, events: int
) -> None:
    """Events and nonsense behind them in one segment: nothing of it is relayed, so it was no output either."""
    other = await stage.replica()
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    stream = SSE + b"18\r\ndata: 0123456789012345\n\n\r\n" * events
    await upstream.send(stream + b"zz\r\n")
    upstream = await other.accept()
    await upstream.message()
    await upstream.send(stream + b"0\r\n\r\n")
    assert await client.exactly(len(stream) + 5) == stream + b"0\r\n\r\n"
    journey = stage.director.journey
    assert journey.failures == [Failure.PROTOCOL]
    assert journey.notes.count("first_output") == 1
    assert journey.notes.index("first_output") > journey.notes.index("failed protocol")
    assert journey.first == (b"data: 0123456789012345\n\n" * events)[:1024]


async def test_an_empty_stream_is_relayed(stage: Stage, client: Wire, replica: Replica) -> None:
    """A stream that ends without an event is complete: its held head is let go."""
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(SSE, b"0\r\n\r\n")
    assert await client.exactly(len(SSE) + 5) == SSE + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("begun", "broken"),
    [
        (SSE + b"9\r\ndata: a\n\n\r\n", b""),
        (SSE + b"9\r\ndata: a\n\n\r\n", b"9\r\ndata: "),
        (SSE + b"9\r\ndata: a\n\n\r\n", b"zz\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", b"worl"),
    ],
)
async def test_a_broken_reply_is_cut_visibly(
    stage: Stage, client: Wire, replica: Replica, begun: bytes, broken: bytes
) -> None:
    """What came is delivered, then the connection closes without the reply's end; never a clean one."""
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(begun)
    assert await client.exactly(len(begun)) == begun
    await upstream.send(broken)
    upstream.close()
    assert broken.startswith(await client.rest())
    assert stage.director.journey.outcomes == [Outcome.FAILED]
    assert stage.director.journey.failures == []
    assert stage.plane.counters.cut == 1


async def test_a_broken_reply_to_an_old_client_resets(stage: Stage, client: Wire, replica: Replica) -> None:
    """Where the close is the end of the body, a cut must not look like one."""
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    upstream = await replica.accept()
    await upstream.head()
    await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await client.until(b"hello")
    upstream.close()
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert stage.director.journey.outcomes == [Outcome.FAILED]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    ],
)
async def test_what_is_not_http_is_a_failed_attempt(
    stage: Stage, client: Wire, replica: Replica, nonsense: bytes
) -> None:
    """A reply that cannot be framed safely reaches no client; its connection is not used again."""
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(nonsense)
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    assert stage.director.journey.failures == [Failure.PROTOCOL]
    assert stage.plane.pool(replica.endpoint).idle == 0
