"""Requests read off bytes; above all: a head that is recognised means exactly what it would mean when parsed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.dataplane.headers import Refused
from kvroute.router.dataplane.limits import Limits
from kvroute.router.dataplane.reader import Reader
from kvroute.router.dataplane.reply_head import read_reply
from kvroute.router.dataplane.request_head import RequestHead, upstream_head
from tests.router.dataplane.stage import Journey
from tests.router.dataplane.test_splits import cuts

LIMITS = Limits(body_bytes=1000, head_bytes=2000)
POST = b"POST /a?b HTTP/1.1\r\nHost: h\r\nX: 1\r\nContent-Length: 3\r\nY: z\r\n\r\nabc"

LINES = [
    b"Host: h",
    b"Content-Length: 3",
    b"content-length:  12",
    b"Content-Length: 3 ",
    b"X-Content-Length: 7",
    b"X: Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"X-Request-Id: abc",
    b"X-Forwarded-For: 9.9.9.9",
    b"Server: 1",
    b"Expect: 100-continue",
]
heads = st.tuples(
    st.sampled_from([b"POST /a HTTP/1.1", b"GET /a HTTP/1.1", b"GET /a HTTP/1.0", b"GET /%61?x HTTP/1.1"]),
    st.lists(st.sampled_from(LINES), max_size=5),
).map(lambda parts: b"\r\n".join((parts[0], b"Host: h", *parts[1], b"", b"")))


def meaning(reader: Reader, data: bytes) -> object:
    """All that one request at the reader comes to: what the handler and the replica would see, or the refusal."""
    reader.buffer = data
    try:
        request = reader.head(lambda: "id")
        if request is None:
            return "unfinished"
        return request.head, request.length, out(request), reader.body(), reader.buffer
    except Refused as error:
        return error.status


def out(request: RequestHead) -> tuple[bytes, bool, bool, bool]:
    shape = request.shape
    journey = Journey([Endpoint("r", 1)], b"x" * max(0, request.length))
    return upstream_head(request, journey), shape.keep_alive, shape.expects, shape.websocket


@settings(max_examples=500, deadline=None)
@given(heads, heads, st.integers(0, 300), st.sampled_from([b"", b"0", b"7", b"\r\n", b"a", b": ", b" "]), st.data())
def test_a_second_head_means_what_it_would_mean_alone(
    first: bytes, other: bytes, place: int, inserted: bytes, data: st.DataObject
) -> None:
    """After any first request, a second (another, the same, or the same with an edit) reads as on a new connection."""
    second = data.draw(
        st.sampled_from([other, first, first[: place % len(first)] + inserted + first[place % len(first) :]])
    )
    body = b"x" * 30
    used = Reader(LIMITS, "1.2.3.4", "http")
    meaning(used, first + body)
    assert meaning(used, second + body) == meaning(Reader(LIMITS, "1.2.3.4", "http"), second + body)


@settings(deadline=None)
@given(st.text("GA /:\r\n\0x", max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_an_unfinished_head_is_refused_alike_however_it_comes(text: str, sizes: list[int]) -> None:
    """What is wrong in the beginning of a head is found in whatever pieces it arrives, and nothing else is."""
    data = b"GET / HTTP/1.1\r\nX: y" + text.encode().replace(b"\r\n\r\n", b"")

    def reading(pieces: list[bytes]) -> object:
        reader = Reader(LIMITS, "1.2.3.4", "http")
        try:
            for piece in pieces:
                reader.buffer += piece
                if reader.head(lambda: "id") is not None:
                    return "read"
        except Refused as error:
            return error.status
        return "unfinished"

    assert reading(list(cuts(data, sizes))) == reading([data])


def test_a_repeated_head_is_recognised_with_another_length() -> None:
    """The usual client: the same head again, but for the digits."""
    reader = Reader(LIMITS, "1.2.3.4", "http")
    reader.buffer = POST
    first = reader.head(lambda: "id-1")
    assert first is not None
    assert reader.body() == b"abc"
    reader.buffer = POST.replace(b": 3", b": 10") + b"defghij"
    second = reader.head(lambda: "id-2")
    assert second is not None
    assert reader.body() == b"abcdefghij"
    assert second.shape is first.shape
    assert second.head.header(b"content-length") == b"10"
    assert first.head.header(b"content-length") == b"3"
    assert second.head.request_id == "id-2"
    assert b"Content-Length: 10\r\n" in upstream_head(second, Journey([Endpoint("r", 1)], b"abcdefghij"))


def test_a_recognised_length_is_checked_again() -> None:
    """Digits only, and within the limit."""
    for digits, status in ((b"1001", 413), (b"-1", 400), (b"1 1", 400), (b"", 400), (b"0x1", 400), (b"9" * 19, 400)):
        reader = Reader(LIMITS, "1.2.3.4", "http")
        meaning(reader, POST)
        assert meaning(reader, POST.replace(b": 3", b": " + digits)) == status


def test_recognition_keeps_nothing_of_a_long_head() -> None:
    """A head over 8 KiB is parsed each time, and not kept."""
    reader = Reader(Limits(), "1.2.3.4", "http")
    long = POST.replace(b"X: 1", b"X: " + b"1" * 9000)
    for _ in range(2):
        assert meaning(reader, long) != 400
        assert reader._shape is None


def test_replies_say_what_frames_them() -> None:
    """The reading of a response head, and what it is recognised by."""
    reply = read_reply(b"HTTP/1.1 200 Fine\r\nContent-Type: Text/Event-Stream;x\r\ncontent-LENGTH: 12\r\n\r\n")
    assert (reply.status, reply.reason, reply.length, reply.framing) == (200, b"Fine", 12, b"content-LENGTH")
    assert reply.events
    assert reply.verbatim
    assert reply.front.endswith(b"content-LENGTH: ")
    assert reply.back == b"\r\n\r\n"
    compressed = read_reply(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n")
    assert compressed.opaque
    assert not compressed.keep_alive
    assert not compressed.verbatim
    assert compressed.length == -2
