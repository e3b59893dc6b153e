"""Requests and replies on their usual way, as transcripts: client >> router >> replica and back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from kvroute.router.dataplane.contract import Exchange, Head, Outcome, Reply
from tests.router.dataplane.stage import Journey, Replica, Stage, Wire, headers_of

POST = b"POST /v1/completions?x=1 HTTP/1.1\r\nHost: router:80\r\nContent-Type: application/json\r\n"
BODY = b'{"prompt": "a\\u0062c",  "unknown":1}'
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
GET = b"GET /v1/models HTTP/1.1\r\nHost: router\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: application/json\r\n\r\nhello"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


async def test_passes_body_and_headers_as_they_came(stage: Stage, client: Wire, replica: Replica) -> None:
    """Body bytes, header names' case, target and Host reach the replica unchanged; a proxy's own lines are added."""
    await client.send(
        POST + b"X-MiXeD: Some Value\r\nX-Request-Id: abc\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    )
    upstream = await replica.accept()
    head, body = await upstream.message()
    assert body == BODY
    assert head == (
        POST
        + b"X-MiXeD: Some Value\r\nX-Request-Id: abc\r\nContent-Length: %d\r\n" % len(BODY)
        + b"X-Forwarded-For: 127.0.0.1\r\n\r\n"
    )
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK
    journey = stage.director.journey
    assert journey.notes == ["body_sent", "replied 200", "tail", "completed"]
    assert journey.last == b"hello"
    assert stage.director.heads[0].request_id == "abc"


async def test_reuses_connections_on_both_sides(stage: Stage, client: Wire, replica: Replica) -> None:
    """Three requests, one after another, share one connection each side."""
    upstream: Wire | None = None
    for _ in range(3):
        await client.send(WHOLE)
        upstream = upstream or await replica.accept()
        await upstream.message()
        await upstream.send(OK)
        assert await client.exactly(len(OK)) == OK
    assert replica.opened == 1
    assert stage.plane.counters.upstream_reused == 2


async def test_answers_pipelined_requests_in_order(stage: Stage, client: Wire, replica: Replica) -> None:
    """The next request in the buffer is forwarded only when the one before is answered."""
    second = WHOLE.replace(b"x=1", b"x=2")
    third = GET.replace(b"/v1/models", b"/third")
    await client.send(WHOLE + second + third)
    upstream = await replica.accept()
    for number, mark in enumerate((b"x=1", b"x=2", b"/third")):
        head, _ = await upstream.message()
        assert mark in head
        assert len(stage.director.heads) == number + 1
        await upstream.send(OK)
        assert await client.exactly(len(OK)) == OK


async def test_reads_chunked_bodies_and_sends_them_whole(stage: Stage, client: Wire, replica: Replica) -> None:
    """A chunked request goes upstream with a Content-Length; extensions and trailers are read over."""
    await client.send(
        POST + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n", b"1\r\n!\r", b"\n0\r\nX-T: 1\r\n\r\n"
    )
    head, body = await (upstream := await replica.accept()).message()
    assert body == b"hello!"
    assert b"transfer-encoding" not in head.lower()
    await upstream.send(OK)
    await client.exactly(len(OK))


async def test_says_100_continue_before_the_body(stage: Stage, client: Wire, replica: Replica) -> None:
    """Expect is answered here, once the head is admitted, and does not reach the replica."""
    await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"{}")
    head, body = await (upstream := await replica.accept()).message()
    assert body == b"{}"
    assert b"expect" not in head.lower()
    await upstream.send(OK)
    await client.exactly(len(OK))


async def test_refuses_before_the_body_is_sent(stage: Stage, client: Wire) -> None:
    """A head that is not admitted is answered at once, and the connection closes for its body was not read."""
    stage.director.refuses = lambda head: Reply(401, b"{}")
    await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    reply = await client.rest()
    assert reply.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"Connection: close\r\n" in reply


async def test_drops_what_is_for_one_hop_only(stage: Stage, client: Wire, replica: Replica) -> None:
    """Connection, what it nominates, Keep-Alive, TE and Upgrade stay here, in both directions."""
    await client.send(
        b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop, Host\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"TE: trailers\r\nUpgrade: h2c\r\nProxy-Connection: keep-alive\r\nX-End: 2\r\nX-Forwarded-For: 1.2.3.4\r\n"
        b"Forwarded: for=1.2.3.4\r\n\r\n"
    )
    upstream = await replica.accept()
    headers = headers_of(await upstream.head())
    assert set(headers) == {b"host", b"x-end", b"x-forwarded-for", b"forwarded", b"x-request-id"}
    assert headers[b"x-forwarded-for"] == b"1.2.3.4, 127.0.0.1"
    assert headers[b"forwarded"] == b"for=1.2.3.4, for=127.0.0.1;proto=http"
    await upstream.send(
        b"HTTP/1.1 200 Fine\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 2\r\n"
        b"Content-Length: 2\r\n\r\nok"
    )
    answer = b"HTTP/1.1 200 Fine\r\nX-End: 2\r\nContent-Length: 2\r\n\r\nok"
    assert await client.exactly(len(answer)) == answer


async def test_makes_a_request_id(stage: Stage, client: Wire, replica: Replica) -> None:
    """Without X-Request-Id the router makes one, tells the replica and the handler, and never makes it twice."""
    seen = set()
    upstream: Wire | None = None
    for _ in range(2):
        await client.send(GET)
        upstream = upstream or await replica.accept()
        seen.add(headers_of(await upstream.head())[b"x-request-id"].decode())
        await upstream.send(OK)
        await client.exactly(len(OK))
    assert seen == {head.request_id for head in stage.director.heads}
    assert len(seen) == 2


async def test_adds_the_exchanges_headers_both_ways(stage: Stage, client: Wire, replica: Replica) -> None:
    """request_headers replace the client's of that name; response_headers are added to the reply."""

    def answer(head: Head, body: bytes) -> Journey:
        journey = stage.director.forward(body)
        journey.request_headers = ((b"X-data-parallel-rank", b"3"),)
        journey.response_headers = ((b"X-Kvroute-Replica", b"r1"),)
        return journey

    stage.director.answers = answer
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nx-data-parallel-rank: 9\r\n\r\n")
    upstream = await replica.accept()
    assert headers_of(await upstream.head())[b"x-data-parallel-rank"] == b"3"
    await upstream.send(OK)
    head, body = await client.message()
    assert headers_of(head)[b"x-kvroute-replica"] == b"r1"
    assert body == b"hello"


async def test_sends_a_rewritten_body(stage: Stage, client: Wire, replica: Replica) -> None:
    """When the exchange carries another body than the client's, its length is announced in the same place."""
    stage.director.answers = lambda head, body: stage.director.forward(b"other")
    await client.send(WHOLE)
    upstream = await replica.accept()
    head, body = await upstream.message()
    assert body == b"other"
    assert b"application/json\r\nContent-Length: 5\r\n" in head
    await upstream.send(OK)
    await client.exactly(len(OK))


async def test_prefixes_the_endpoints_base_path(stage: Stage, client: Wire) -> None:
    """A replica behind a path gets it in front of the target."""
    replica = await stage.replica(base=b"/engine")
    await client.send(GET)
    upstream = await replica.accept()
    assert (await upstream.head()).startswith(b"GET /engine/v1/models HTTP/1.1\r\n")
    await upstream.send(OK)
    await client.exactly(len(OK))


async def test_relays_chunks_as_they_came(stage: Stage, client: Wire, replica: Replica) -> None:
    """A chunked reply keeps its chunk boundaries, extensions and trailers, byte for byte."""
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n5;e=1\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n"
    await client.send(WHOLE)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(reply[:70], reply[70:])
    assert await client.exactly(len(reply)) == reply
    assert stage.director.journey.last == b"hello"
    await client.send(GET)
    await upstream.head()
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK


async def test_notes_first_output_and_the_tail_of_a_stream(stage: Stage, client: Wire, replica: Replica) -> None:
    """Comments, error events and [DONE] are not output; the tail comes without framing."""
    await client.send(WHOLE)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(SSE)
    await asyncio.sleep(0.01)
    assert client.silent()
    await upstream.send(chunk(b": ping\n\n"))
    assert await client.exactly(len(SSE) + 13) == SSE + chunk(b": ping\n\n")
    await upstream.send(chunk(b'data: {"error": {"message": "x"}}\n\n'))
    await client.until(b"\n\n\r\n")
    assert "first_output" not in stage.director.journey.notes
    await upstream.send(chunk(b'data: {"a'), chunk(b'": "\\"error\\": no"}\n'), chunk(b"\n"))
    await client.until(b"1\r\n\n\r\n")
    assert stage.director.journey.notes[-1] == "first_output"
    await upstream.send(chunk(b'data: {"usage": 1}\n\n') + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    assert (await client.until(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")
    journey = stage.director.journey
    assert journey.notes[-2:] == ["tail", "completed"]
    assert journey.notes.count("first_output") == 1
    assert journey.last.endswith(b'data: {"usage": 1}\n\ndata: [DONE]\n\n')


async def test_the_events_that_open_a_stream_are_relayed_but_are_no_output(
    stage: Stage, client: Wire, replica: Replica
) -> None:
    """The client gets `response.created` as soon as it comes; the first output is what the engine makes later."""
    await client.send(WHOLE)
    upstream = await replica.accept()
    await upstream.message()
    opening = chunk(b'event: response.created\ndata: {"response": {"id": "resp_1", "error": null}}\n\n')
    await upstream.send(SSE + opening)
    assert await client.exactly(len(SSE) + len(opening)) == SSE + opening
    assert "first_output" not in stage.director.journey.notes
    added = chunk(b'event: response.output_item.added\ndata: {"output_index": 0}\n\n')
    await upstream.send(added)
    assert await client.exactly(len(added)) == added
    assert stage.director.journey.notes[-1] == "first_output"


@pytest.mark.parametrize("ending", ["whole", "last chunk apart", "cut", "client gone"])
async def test_counts_the_pieces_of_a_stream(stage: Stage, client: Wire, replica: Replica, ending: str) -> None:
    """Segments are counted from that of the first output on, however the stream ends; a bare last chunk is none."""
    await client.send(WHOLE)
    upstream = await replica.accept()
    await upstream.message()
    pieces = [SSE, chunk(b": early\n\n")] + [chunk(b"data: %d\n\n" % number) for number in range(4)]
    for piece in pieces:
        await upstream.send(piece)
        if piece is not SSE:
            await client.until(piece)
    if ending == "whole":
        await upstream.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    elif ending == "last chunk apart":
        await upstream.send(b"0\r\n\r\n")
    elif ending == "cut":
        upstream.abort()
    else:
        client.abort()
    await stage.director.journey.settled()
    assert stage.director.journey.pieces == [5 if ending == "whole" else 4]


async def test_counts_no_pieces_where_there_is_no_stream(stage: Stage, client: Wire, replica: Replica) -> None:
    """A whole reply reports none; a stream without output reports zero, also when its client leaves before."""
    await client.send(WHOLE)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(OK)
    await client.exactly(len(OK))
    assert stage.director.journey.pieces == []
    await client.send(WHOLE)
    await upstream.message()
    await upstream.send(SSE, chunk(b": early\n\n"))
    await client.until(b"early")
    client.abort()
    await stage.director.journey.settled()
    assert stage.director.journey.pieces == [0]


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 512\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
async def test_replies_without_body_do_not_swallow_the_next(
    stage: Stage, client: Wire, replica: Replica, method: bytes, reply: bytes
) -> None:
    """HEAD, 304 and 204 end with their head, whatever length it announces, and the connections go on."""
    upstream: Wire | None = None
    for _ in range(2):
        await client.send(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method)
        upstream = upstream or await replica.accept()
        await upstream.head()
        await upstream.send(reply)
        assert await client.exactly(len(reply)) == reply
    await client.send(GET)
    await upstream.head() if upstream else None
    await upstream.send(OK) if upstream else None
    assert await client.exactly(len(OK)) == OK


async def test_wraps_bodies_that_end_with_the_connection(stage: Stage, client: Wire, replica: Replica) -> None:
    """A reply without length ends at the replica's close; the client gets it in chunks and can go on."""
    await client.send(WHOLE)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nhel", b"lo")
    upstream.close()
    assert await client.head() == b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert await client.until(b"0\r\n\r\n") in (b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n")
    assert await stage.director.journey.settled() is Outcome.COMPLETED
    await client.send(GET)
    upstream = await replica.accept()
    await upstream.head()
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK


async def test_speaks_http_1_0_to_old_clients(stage: Stage, client: Wire, replica: Replica) -> None:
    """An HTTP/1.0 client gets no chunks: they are taken off, and the close is the end."""
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    upstream = await replica.accept()
    assert (await upstream.head()).startswith(b"GET / HTTP/1.1\r\n")
    await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", b"2\r\nlo\r\n0\r\n\r\n")
    assert await client.rest() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"
    assert stage.director.journey.last == b"hello"


async def test_tells_the_first_bytes_of_what_goes_to_old_clients(stage: Stage, client: Wire, replica: Replica) -> None:
    """A body whose chunks are taken off is looked into as any other, also when it comes in one piece."""
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    upstream = await replica.accept()
    await upstream.head()
    await upstream.send(SSE + chunk(b"data: a\n\n") + b"0\r\n\r\n")
    assert (await client.rest()).endswith(b"\r\n\r\ndata: a\n\n")
    assert stage.director.journey.first == b"data: a\n\n"
    assert stage.director.journey.notes.count("first_output") == 1


async def test_keeps_old_clients_that_ask_for_it(stage: Stage, client: Wire, replica: Replica) -> None:
    """Connection: keep-alive in HTTP/1.0 is honoured where the reply has a length."""
    upstream: Wire | None = None
    for _ in range(2):
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        upstream = upstream or await replica.accept()
        await upstream.head()
        await upstream.send(OK)
        head, body = await client.message()
        assert headers_of(head)[b"connection"] == b"keep-alive"
        assert body == b"hello"


async def test_closes_when_the_client_asks(stage: Stage, client: Wire, replica: Replica) -> None:
    """Connection: close is answered in kind, and the replica's connection is kept all the same."""
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    upstream = await replica.accept()
    assert b"close" not in await upstream.head()
    await upstream.send(OK)
    reply = await client.rest()
    assert b"Connection: close\r\n" in reply
    assert reply.endswith(b"\r\n\r\nhello")
    assert stage.plane.pool(replica.endpoint).idle == 1


async def test_passes_interim_replies_on(stage: Stage, client: Wire, replica: Replica) -> None:
    """103 is relayed, 100 is ours alone."""
    await client.send(WHOLE)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
    assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert await client.exactly(len(OK)) == OK


async def test_passes_a_replicas_error_on_untouched(stage: Stage, client: Wire, replica: Replica) -> None:
    """A 500 of the engine's own is its answer: relayed, not retried, no tail."""
    reply = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 3\r\n\r\nbad"
    await client.send(WHOLE)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(reply)
    assert await client.exactly(len(reply)) == reply
    assert stage.director.journey.notes == ["body_sent", "replied 500", "completed"]


async def test_awaits_a_handler_that_awaits(stage: Stage, client: Wire, replica: Replica) -> None:
    """An awaitable result is awaited, then treated like any other."""

    async def answer(body: bytes) -> Reply:
        await asyncio.sleep(0)
        return Reply(200, b"later")

    stage.director.answers = lambda head, body: answer(body)
    await client.send(WHOLE + WHOLE)
    for _ in range(2):
        assert (await client.message())[1] == b"later"


@pytest.mark.parametrize("awaited", [False, True])
async def test_answers_500_when_the_handler_fails(
    stage: Stage, client: Wire, awaited: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that raises costs its client a 500, not a hang, and is logged."""

    async def later() -> Reply:
        raise ValueError("bug")

    def answer(head: Head, body: bytes) -> Awaitable[Reply | Exchange]:
        if awaited:
            return later()
        raise ValueError("bug")

    stage.director.answers = answer
    await client.send(WHOLE)
    assert (await client.rest()).startswith(b"HTTP/1.1 500 ")
    assert "ValueError: bug" in caplog.text


async def test_sends_its_own_answers(stage: Stage, client: Wire) -> None:
    """A Reply keeps the connection; to HEAD it goes without its body."""
    stage.director.answers = lambda head, body: Reply(200, b"{}", ((b"X-A", b"b"),))
    await client.send(GET)
    head, body = await client.message()
    assert body == b"{}"
    assert headers_of(head)[b"x-a"] == b"b"
    await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    assert headers_of(await client.head())[b"content-length"] == b"2"
    assert (await client.message())[1] == b"{}"


async def test_takes_absolute_targets(stage: Stage, client: Wire, replica: Replica) -> None:
    """An absolute target is brought to origin form; the path given to the handler is decoded, the target is not."""
    await client.send(b"GET http://a/v1/%73leep?q=%20 HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream = await replica.accept()
    assert (await upstream.head()).startswith(b"GET /v1/%73leep?q=%20 HTTP/1.1\r\n")
    assert stage.director.heads[0].path == b"/v1/sleep"
    await upstream.send(OK)
    await client.exactly(len(OK))


async def test_does_not_relay_what_follows_a_reply(stage: Stage, client: Wire, replica: Replica) -> None:
    """Bytes behind a reply's end are dropped together with the connection that carried them."""
    await client.send(WHOLE)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    assert await client.exactly(len(OK)) == OK
    assert stage.plane.pool(replica.endpoint).idle == 0
    await client.send(GET)
    upstream = await replica.accept()
    await upstream.head()
    await upstream.send(OK)
    assert await client.exactly(len(OK)) == OK
    assert stage.director.journey.failures == []


@pytest.mark.parametrize("framed", ["length", "chunks", "compressed"])
async def test_tells_the_first_and_the_last_bytes(stage: Stage, client: Wire, replica: Replica, framed: str) -> None:
    """Of a large 2xx body the exchange hears the first 1 KiB and the last 8 KiB, unless it is compressed."""
    body = bytes(range(256)) * 256
    data = body if framed != "chunks" else b"".join(chunk(body[i : i + 999]) for i in range(0, len(body), 999))
    head = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body),
        "compressed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body),
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    }[framed]
    if framed == "chunks":
        data += b"0\r\n\r\n"
    await client.send(WHOLE)
    upstream = await replica.accept()
    await upstream.message()
    await upstream.send(head + data[:100], data[100:30_000], data[30_000:])
    assert await client.exactly(len(head) + len(data)) == head + data
    journey = stage.director.journey
    assert journey.first == (b"" if framed == "compressed" else body[:1024])
    assert journey.last == (b"" if framed == "compressed" else body[-8192:])
