"""However the byte streams are cut into segments, on either side, the result is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvroute.router.dataplane.client import Client
from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.dataplane.pool import Pool
from kvroute.router.dataplane.server import DataPlane
from kvroute.router.dataplane.upstream import Upstream
from tests.router.dataplane.stage import Director

REQUESTS = (
    b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\nX-Request-Id: 1\r\n\r\nhello world"
    b"POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nX-Request-Id: 2\r\n\r\n"
    b"5;x=y\r\nhello\r\nc\r\n big\r\nworld!\r\n0\r\nT: 1\r\n\r\n"
    b"\r\nGET /c HTTP/1.1\r\nhost: h\r\nX-Request-Id: 3\r\nConnection: keep-alive\r\n\r\n"
    b"HEAD /d HTTP/1.1\r\nhost: h\r\nX-Request-Id: 4\r\n\r\n"
    b"GET /e HTTP/1.1\r\nhost: h\r\nX-Request-Id: 5\r\n\r\n"
)
REPLIES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n7\r\n: ping\n\r\n1\r\n\n\r\n9\r\ndata: a\n\n\r\n"
    b'1b\r\ndata: {"usage": {"a": 1}}\n\n\r\n0\r\nX-T: y\r\n\r\n',
    b"HTTP/1.1 404 Not Found\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nto the end",
)
ANSWERS = (
    REPLIES[0] + REPLIES[1] + b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno" + REPLIES[3]
    + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
)  # fmt: skip


class FakeTransport:
    """Writes into a list."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.written.extend(pieces)

    def close(self) -> None:
        self.closed = True

    abort = close

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def get_extra_info(self, name: str) -> Any:
        return ("10.0.0.1", 1)

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class Wired(Pool):
    """A pool whose connections lead nowhere: the test is the replica."""

    made: list[Upstream]

    async def connect(self) -> Upstream:
        upstream = Upstream(self)
        upstream.connection_made(FakeTransport())  # type: ignore[arg-type]
        self.made.append(upstream)
        return upstream


def cuts(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """`data` in pieces of these sizes, the sizes again from the start when they run out."""
    position = 0
    while position < len(data):
        for size in sizes:
            if position < len(data):
                yield data[position : position + size]
                position += size


def sent_by(transport: Any) -> bytes:
    return b"".join(transport.written)


@contextmanager
def looped() -> Iterator[Callable[[Awaitable[Any]], Any]]:
    loop = asyncio.new_event_loop()
    try:
        yield loop.run_until_complete
    finally:
        loop.close()


async def play(request_sizes: list[int], reply_sizes: list[int]) -> tuple[bytes, list[bytes], Director]:
    """Five pipelined requests through the router; both sides cut as told."""
    director = Director()
    endpoint = Endpoint("10.0.0.2", 80)
    director.route.append(endpoint)
    plane = DataPlane(director)
    pool = plane._pools[endpoint] = Wired(endpoint, plane.limits, None, plane.counters)
    pool.made = []
    transport = FakeTransport()
    client = Client(plane)
    client.connection_made(transport)  # type: ignore[arg-type]
    for piece in cuts(REQUESTS, request_sizes):
        client.data_received(piece)
    for number, reply in enumerate(REPLIES):
        for _ in range(5):
            await asyncio.sleep(0)
        upstream = pool.made[-1]
        assert len(director.journeys) == number + 1
        for piece in cuts(reply, reply_sizes):
            upstream.data_received(piece)
    upstream.eof_received()
    sent = [sent_by(each.transport) for each in pool.made]
    assert all(len(journey.outcomes) == 1 for journey in director.journeys)
    client.connection_lost(None)
    assert plane.counters.relays == plane.counters.body_bytes == 0
    return sent_by(transport), sent, director


def payload_of(chunks: bytes) -> bytes:
    """A chunked body without its framing."""
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        body += chunks[: int(size, 16)]
        chunks = chunks[int(size, 16) + 2 :]
    return body


sizes = st.lists(st.integers(1, 80), min_size=1, max_size=12) | st.just([1]) | st.just([1 << 16])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sizes, sizes)
def test_any_cut_of_both_streams_gives_the_same_result(request_sizes: list[int], reply_sizes: list[int]) -> None:
    """What replicas get, what the client gets and what the handler hears do not depend on segment boundaries."""
    with looped() as run:
        received, sent, director = run(play(request_sizes, reply_sizes))
    assert received.startswith(ANSWERS)
    assert payload_of(received[len(ANSWERS) :]) == b"to the end"
    assert director.bodies == [b"hello world", b"hello big\r\nworld!", b"", b"", b""]
    assert sent == [
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\nX-Request-Id: 1\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
        b"hello world"
        b"POST /b HTTP/1.1\r\nHost: h\r\nX-Request-Id: 2\r\nContent-Length: 17\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
        b"hello big\r\nworld!"
        b"GET /c HTTP/1.1\r\nhost: h\r\nX-Request-Id: 3\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
        b"HEAD /d HTTP/1.1\r\nhost: h\r\nX-Request-Id: 4\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
        b"GET /e HTTP/1.1\r\nhost: h\r\nX-Request-Id: 5\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
    ]
    assert [journey.notes for journey in director.journeys] == [
        ["body_sent", "replied 200", "tail", "completed"],
        ["body_sent", "replied 200 streaming", "first_output", "tail", "completed"],
        ["replied 404", "completed"],
        ["replied 200", "completed"],
        ["replied 200", "tail", "completed"],
    ]
    assert [journey.first for journey in director.journeys] == [
        b"hello",
        b': ping\n\ndata: a\n\ndata: {"usage": {"a": 1}}\n\n',
        b"",
        b"",
        b"to the end",
    ]
    assert director.journeys[1].last == b': ping\n\ndata: a\n\ndata: {"usage": {"a": 1}}\n\n'
    assert director.journeys[4].last == b"to the end"
