"""Slow readers and leavers: memory stays bounded, and the replica hears of a disconnect at once."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic

import pytest

from kvroute.router.dataplane.contract import Exchange, Outcome, Reply
from kvroute.router.dataplane.limits import Limits
from tests.router.dataplane.stage import Replica, Stage, Wire, reached

POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"c8\r\ndata: " + b"x" * 192 + b"\n\n"[:2] + b"\r\n"
SIZE = 64 * 1024 * 1024


async def pour(upstream: Wire, data: bytes, size: int) -> int:
    """Write `data` again and again until `size` bytes are out or nothing has moved for a while. Bytes written."""
    written = 0
    while written < size:
        upstream.writer.write(data)
        try:
            async with asyncio.timeout(0.3):
                await upstream.writer.drain()
        except TimeoutError:
            return written
        written += len(data)
    return written


@pytest.mark.parametrize("framed", ["length", "chunks", "close"])
async def test_a_client_that_does_not_read_holds_the_replica_back(
    stage: Stage, client: Wire, replica: Replica, framed: str
) -> None:
    """A large reply waits at the replica: what the router holds stays below a few hundred KB."""
    client.writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    head = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE,
        "chunks": SSE,
        "close": b"HTTP/1.1 200 OK\r\n\r\n",
    }[framed]
    await upstream.send(head)
    block = EVENT * 300 if framed == "chunks" else b"y" * 65536
    written = await pour(upstream, block, SIZE)
    assert written < SIZE // 2
    (connection,) = stage.plane.clients
    assert connection.full
    assert connection.transport.get_write_buffer_size() < 400 * 1024
    client.abort()
    assert await stage.director.journey.settled() is Outcome.ABORTED


async def test_a_slow_reader_gets_everything(stage: Stage, client: Wire, replica: Replica) -> None:
    """Pausing and resuming loses and reorders nothing, and the buffer never grows beyond one read over the mark."""
    size = 8 * 1024 * 1024
    block = bytes(range(256)) * 256
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)

    async def serve() -> None:
        for _ in range(size // len(block)):
            await upstream.send(block)

    serving = asyncio.ensure_future(serve())
    await client.head()
    (connection,) = stage.plane.clients
    highest = 0
    for number in range(size // len(block)):
        assert await client.exactly(len(block)) == block
        highest = max(highest, connection.transport.get_write_buffer_size())
        if number % 16 == 0:
            await asyncio.sleep(0.01)
    await serving
    assert highest < 400 * 1024
    assert await stage.director.journey.settled() is Outcome.COMPLETED


async def test_a_kept_connection_is_read_again_after_back_pressure(
    stage: Stage, client: Wire, replica: Replica
) -> None:
    """A replica connection that was held back when its reply ended serves the next request."""
    size = 4 * 1024 * 1024
    await client.send(POST + POST)
    upstream = await replica.accept()
    for _ in range(2):
        await upstream.message()
        reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"z" * size
        sending = asyncio.ensure_future(upstream.send(reply))
        await asyncio.sleep(0.05)
        await client.head()
        await client.exactly(size)
        await sending
    assert replica.opened == 1


@pytest.mark.parametrize("leave", ["close", "abort", "half-close"])
@pytest.mark.parametrize("stage_reached", ["before the head", "after the head", "streaming"])
async def test_a_disconnect_aborts_the_replica(
    stage: Stage, client: Wire, replica: Replica, leave: str, stage_reached: str
) -> None:
    """Within 10 ms (generously measured) of the client's leaving the replica's connection is closed."""
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    if stage_reached != "before the head":
        await upstream.send(SSE)
    if stage_reached == "streaming":
        await upstream.send(EVENT)
        await client.until(b"\n\n\r\n")
    if leave == "close":
        client.close()
    elif leave == "abort":
        client.abort()
    else:
        client.writer.write_eof()
    left = monotonic()
    assert await stage.director.journey.settled() is Outcome.ABORTED
    await upstream.gone()
    assert monotonic() - left < 0.5
    assert stage.plane.pool(replica.endpoint).idle == 0


async def test_a_disconnect_is_seen_under_back_pressure(stage: Stage, client: Wire, replica: Replica) -> None:
    """A client that stopped reading long ago and then dies is noticed although nothing can be written to it."""
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(SSE)
    assert await pour(upstream, EVENT * 300, SIZE) < SIZE
    client.close()
    assert await stage.director.journey.settled() is Outcome.ABORTED
    await upstream.gone()


async def test_a_client_that_reads_nothing_for_long_is_cut_off(empty_stage: Stage) -> None:
    """`stall_seconds` of unread bytes end the exchange."""
    stage = await empty_stage.open(Limits(stall_seconds=0.1))
    replica = await stage.replica()
    client = await stage.client()
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(POST)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(SSE)
    with pytest.raises(ConnectionError):
        await pour(upstream, EVENT * 300, SIZE)
    assert await stage.director.journey.settled() is Outcome.ABORTED


async def test_a_disconnect_while_connecting_or_awaiting(stage: Stage, client: Wire, replica: Replica) -> None:
    """An awaited handler is cancelled when its client leaves; nothing is opened for nobody."""
    begun = asyncio.Event()
    ended = asyncio.Event()

    async def answer() -> Reply | Exchange:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    stage.director.answers = lambda head, body: answer()
    await client.send(POST)
    await begun.wait()
    client.abort()
    async with asyncio.timeout(1):
        await ended.wait()
    assert replica.opened == 0


async def test_a_disconnect_in_the_same_moment_as_an_answer(stage: Stage, client: Wire, replica: Replica) -> None:
    """An exchange that comes out of an awaited handler too late is settled as aborted."""
    leave = asyncio.Event()

    async def answer(body: bytes) -> Exchange:
        try:
            await leave.wait()
        except asyncio.CancelledError:
            return stage.director.forward(body)
        raise AssertionError

    stage.director.answers = lambda head, body: answer(body)
    await client.send(POST)
    await reached(lambda: bool(stage.director.heads))
    client.abort()
    await reached(lambda: bool(stage.director.journeys))
    assert await stage.director.journey.settled() is Outcome.ABORTED


async def test_a_large_upload_reaches_a_slow_replica(stage: Stage, client: Wire, replica: Replica) -> None:
    """A body of many megabytes goes through whole while the replica reads slowly."""
    size = 16 * 1024 * 1024
    body = bytes(range(256)) * (size // 256)
    sending = asyncio.ensure_future(
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body)
    )
    upstream = await replica.accept()
    await upstream.head()
    await asyncio.sleep(0.05)
    assert await upstream.exactly(size) == body
    await sending
    await upstream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert await client.head() == b"HTTP/1.1 204 No Content\r\n\r\n"


async def test_an_early_answer_ends_an_upload(stage: Stage, client: Wire, replica: Replica) -> None:
    """A replica may answer before it has read the body; that connection is not used again."""
    size = 16 * 1024 * 1024
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    upstream = await replica.accept()
    await upstream.head()
    await upstream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 413 ")
    assert stage.plane.pool(replica.endpoint).idle == 0


async def test_a_slow_reader_gets_the_last_bytes_of_a_closed_connection(empty_stage: Stage) -> None:
    """Bytes that wait when the connection is to be closed are not dropped after `linger_seconds`."""
    stage = await empty_stage.open(Limits(linger_seconds=0.05, high_water_bytes=8 * 1024 * 1024))
    replica = await stage.replica()
    client = await stage.client()
    small, large = 16 * 1024, 4 * 1024 * 1024
    receiving = client.writer.transport.get_extra_info("socket")
    receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, small)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    upstream = await replica.accept()
    await upstream.head()
    (connection,) = stage.plane.clients
    sending = connection.transport.get_extra_info("socket")
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, small)
    body = b"z" * 3_000_000
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + body)
    assert await stage.director.journey.settled() is Outcome.COMPLETED
    await asyncio.sleep(0.3)
    assert connection.transport.get_write_buffer_size() > 0
    receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, large)
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, large)
    client.reader._transport.resume_reading()  # type: ignore[attr-defined]
    assert (await client.rest()).endswith(b"\r\n\r\n" + body)
