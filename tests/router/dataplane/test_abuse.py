"""Smuggling, malformed input and limits: refused with a status that says why, on a connection that then closes."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from kvroute.router.dataplane.limits import Limits
from tests.router.dataplane.stage import Replica, Stage, Wire, headers_of, reached

START = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
CHUNKS = START + b"Transfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"

REFUSED: dict[str, tuple[int, bytes]] = {
    "length and chunks": (400, START + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunks and length": (400, START + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, START + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "the same length twice": (400, START + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "a list of lengths": (400, START + b"Content-Length: 3, 3\r\n\r\nabc"),
    "a signed length": (400, START + b"Content-Length: +3\r\n\r\nabc"),
    "a negative length": (400, START + b"Content-Length: -3\r\n\r\nabc"),
    "a hexadecimal length": (400, START + b"Content-Length: 0x3\r\n\r\nabc"),
    "an empty length": (400, START + b"Content-Length: \r\n\r\nabc"),
    "a huge length": (400, START + b"Content-Length: 99999999999999999999\r\n\r\nabc"),
    "gzip, chunked": (400, START + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "xchunked": (400, START + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "identity": (400, START + b"Transfer-Encoding: identity\r\n\r\n"),
    "chunked with a tab": (400, START + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "chunks in HTTP/1.0": (400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a folded header": (400, START + b"X: a\r\n b\r\n\r\n"),
    "a folded length": (400, START + b"Content-Length:\r\n 3\r\n\r\nabc"),
    "a line that begins with a space": (400, b"POST / HTTP/1.1\r\n Host: a\r\n\r\n"),
    "a space before the colon": (400, START + b"Content-Length : 3\r\n\r\nabc"),
    "a header without colon": (400, START + b"Content-Length 3\r\n\r\nabc"),
    "a header without name": (400, START + b": 3\r\n\r\nabc"),
    "bare LF after a header": (400, START + b"X: a\nContent-Length: 3\r\n\r\nabc"),
    "bare LF everywhere": (400, b"POST / HTTP/1.1\nHost: a\n\n"),
    "bare CR in a header": (400, START + b"X: a\rContent-Length: 3\r\n\r\nabc"),
    "NUL in a value": (400, START + b"X: a\0b\r\n\r\n"),
    "NUL in a name": (400, START + b"X\0: b\r\n\r\n"),
    "NUL in the target": (400, b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "NUL in an unfinished head": (400, START + b"X: a\0b"),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    "two Hosts in HTTP/1.0": (400, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    "a Host with a path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "a Host with a user": (400, b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    "another host in the target": (400, b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/1.2": (400, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "RTSP": (400, b"GET / RTSP/1.0\r\nHost: a\r\n\r\n"),
    "two spaces": (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "an unknown method": (400, b"GRAB / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT": (400, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    "a fragment": (400, b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "no path": (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "TLS on a plain port": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "another expectation": (417, START + b"Expect: tea\r\nContent-Length: 1\r\n\r\na"),
    "a large head": (431, START + b"X: " + b"y" * 40_000 + b"\r\n\r\n"),
    "a large head without end": (431, START + b"X: " + b"y" * 40_000),
    "many headers": (431, START + b"X: y\r\n" * 7_000 + b"\r\n"),
    "a large body": (413, START + b"Content-Length: 67108865\r\n\r\n"),
    "chunk size: not hexadecimal": (400, CHUNKS + b"g\r\n"),
    "chunk size: signed": (400, CHUNKS + b"+3\r\nabc\r\n0\r\n\r\n"),
    "chunk size: prefixed": (400, CHUNKS + b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size: underscore": (400, CHUNKS + b"1_0\r\n"),
    "chunk size: empty": (400, CHUNKS + b"\r\nabc"),
    "chunk size: space before": (400, CHUNKS + b" 3\r\nabc\r\n0\r\n\r\n"),
    "chunk size: space behind": (400, CHUNKS + b"3 \r\nabc\r\n0\r\n\r\n"),
    "chunk size: huge": (400, CHUNKS + b"ffffffffffffffffffff\r\n"),
    "chunk size: bare LF": (400, CHUNKS + b"3\nabc\r\n0\r\n\r\n"),
    "chunk size: bare CR": (400, CHUNKS + b"3\rabc\r\n0\r\n\r\n"),
    "chunk size: negative": (400, CHUNKS + b"-3\r\nabc\r\n0\r\n\r\n"),
    "chunk extension: control": (400, CHUNKS + b"3;a=\0\r\nabc\r\n0\r\n\r\n"),
    "chunk extension: endless": (400, CHUNKS + b"3;" + b"a" * 2000),
    "chunk longer than its size": (400, CHUNKS + b"3\r\nabcd\r\n0\r\n\r\n"),
    "chunk ends in LF": (400, CHUNKS + b"3\r\nabc\n0\r\n\r\n"),
    "trailer: malformed": (400, CHUNKS + b"0\r\nno colon\r\n\r\n"),
    "trailer: folded": (400, CHUNKS + b"0\r\nA: b\r\n c\r\n\r\n"),
    "trailer: endless": (400, CHUNKS + b"0\r\n" + b"A: bbbbbbbbbbbbbbbb\r\n" * 2000),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("smuggled", [b"", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_refuses(stage: Stage, client: Wire, replica: Replica, name: str, smuggled: bytes) -> None:
    """The status says why, in vLLM's error shape; the connection closes; nothing goes to a replica."""
    status, sent = REFUSED[name]
    await client.send(sent + smuggled)
    reply = await client.rest()
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), reply
    assert headers_of(head)[b"connection"] == b"close"
    error = orjson.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert stage.director.heads == []
    assert replica.opened == 0


async def test_refuses_only_after_the_answers_before_it(stage: Stage, client: Wire, replica: Replica) -> None:
    """A malformed request in a pipeline waits for its turn, and spoils nothing in front of it."""
    await client.send(START + b"Content-Length: 2\r\n\r\n{}" + b"GET / HTTP/1.1\r\n\r\n")
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK
    assert (await client.rest()).startswith(b"HTTP/1.1 400 ")


async def test_reads_over_empty_lines_before_a_request(stage: Stage, client: Wire, replica: Replica) -> None:
    """CRLF before a request line is let pass, as RFC 9112 asks, whichever way it is cut."""
    await client.send(b"\r", b"\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream = await replica.accept()
    await upstream.head()
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK


async def test_counts_a_chunked_body(empty_stage: Stage) -> None:
    """The body limit holds for bodies that do not announce their size."""
    stage = await empty_stage.open(Limits(body_bytes=1000))
    client = await stage.client()
    await client.send(CHUNKS + b"3e8\r\n" + b"x" * 1000 + b"\r\n", b"1\r\nx\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.1 413 ")


async def test_bounds_the_bodies_of_all_connections(empty_stage: Stage) -> None:
    """When bodies held in memory reach the limit, the next is told to come back."""
    stage = await empty_stage.open(Limits(total_body_bytes=1500))
    first, second = await stage.client(), await stage.client()
    await first.send(START + b"Content-Length: 1200\r\n\r\n" + b"x" * 1000)
    await reached(lambda: stage.plane.counters.body_bytes >= 1000)
    await second.send(START + b"Content-Length: 600\r\n\r\n" + b"x" * 600)
    reply = await second.rest()
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: " in reply
    assert stage.plane.counters.body_bytes == 1000


async def test_refuses_one_connection_too_many(empty_stage: Stage) -> None:
    """Beyond the limit a connection is told 503 with Retry-After; a place that gets free can be used."""
    stage = await empty_stage.open(Limits(connections=1))
    first = await stage.client()
    await first.send(b"GET")
    reply = await (await stage.client()).rest()
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: " in reply


async def test_a_slow_head_is_timed_out(empty_stage: Stage) -> None:
    """408 once a head takes too long from its first byte, however it trickles."""
    stage = await empty_stage.open(Limits(header_seconds=0.1))
    client = await stage.client()
    await client.send(*(b"GET / HTTP/1.1\r\nX: y"[i : i + 1] for i in range(20)))
    assert (await client.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_slow_body_is_timed_out(empty_stage: Stage) -> None:
    """408 once a body takes too long."""
    stage = await empty_stage.open(Limits(body_seconds=0.1))
    client = await stage.client()
    await client.send(START + b"Content-Length: 10\r\n\r\n12345")
    assert (await client.rest()).startswith(b"HTTP/1.1 408 ")


async def test_an_idle_connection_is_closed(empty_stage: Stage) -> None:
    """Without a request under way a connection is closed in silence, new or kept."""
    stage = await empty_stage.open(Limits(keep_alive_seconds=0.1))
    replica = await stage.replica()
    fresh, kept = await stage.client(), await stage.client()
    await kept.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream = await replica.accept()
    await upstream.head()
    await asyncio.sleep(0.2)
    await upstream.send(OK)
    assert await kept.rest() == OK
    await fresh.gone()


async def test_bounds_what_is_sent_ahead(empty_stage: Stage) -> None:
    """More than `pipelined_bytes` while a reply is outstanding closes the connection and aborts the replica."""
    stage = await empty_stage.open(Limits(pipelined_bytes=1000))
    replica = await stage.replica()
    client = await stage.client()
    await client.send(START + b"Content-Length: 2\r\n\r\n{}")
    upstream = await replica.accept()
    await upstream.message()
    await client.send(b"G" * 1500)
    await client.gone()
    await upstream.gone()
