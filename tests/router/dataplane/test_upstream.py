"""A replica's reply heads: one that is recognised means exactly what it would mean when parsed."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.dataplane.contract import Failure
from kvroute.router.dataplane.limits import Limits
from kvroute.router.dataplane.reply_head import ReplyHead, client_head, framing_line
from kvroute.router.dataplane.upstream import Upstream
from tests.router.dataplane.test_splits import FakeTransport

LINES = [
    b"Content-Length: 3",
    b"content-length:  12",
    b"X-Content-Length: 7",
    b"X: Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Connection: keep-alive",
    b"Connection: close, X",
    b"Content-Type: text/event-stream",
    b"Server: 1",
    b"Date: x",
]
heads = st.tuples(
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 404 No", b"HTTP/1.1 103 Hi"]),
    st.lists(st.sampled_from(LINES), max_size=4),
).map(lambda parts: b"\r\n".join((parts[0], *parts[1], b"", b"")))


class Listener:
    """Writes down what a replica's connection reports."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def interim(self, raw: bytes) -> None:
        self.heard.append(("interim", raw))

    def replied(self, reply: ReplyHead, length: int, data: bytes, position: int) -> None:
        head = client_head(reply, framing_line(reply, length), ())
        self.heard.append((head, length, reply.keep_alive, reply.verbatim, reply.events, data, position))

    def received(self, data: bytes) -> None:
        self.heard.append(("received", data))

    def ended(self) -> None:
        self.heard.append("ended")

    def broken(self, failure: Failure) -> None:
        self.heard.append(failure)

    def upstream_full(self, full: bool) -> None:
        raise AssertionError


class Keeper:
    """An owner that only has limits."""

    limits = Limits()

    def opened(self, upstream: Upstream) -> None: ...

    def lost(self, upstream: Upstream) -> None: ...


def connected() -> Upstream:
    upstream = Upstream(Keeper())
    upstream.connection_made(FakeTransport())  # type: ignore[arg-type]
    return upstream


def heard(upstream: Upstream, data: bytes) -> list[Any]:
    listener = Listener()
    upstream.send(listener, b"GET", b"")
    upstream.data_received(data)
    return listener.heard


@settings(max_examples=500, deadline=None)
@given(heads, heads, st.integers(0, 300), st.sampled_from([b"", b"0", b"7", b"\r\n", b"a", b": ", b" "]), st.data())
def test_a_second_reply_means_what_it_would_mean_alone(
    first: bytes, other: bytes, place: int, inserted: bytes, data: st.DataObject
) -> None:
    """After any first reply, a second (another, the same, or the same with an edit) reads as on a new connection."""
    at = place % len(first)
    second = data.draw(st.sampled_from([other, first, first[:at] + inserted + first[at:]])) + b"body"
    used = connected()
    heard(used, first + b"abc")
    assert heard(used, second) == heard(connected(), second)


def test_a_repeated_head_is_recognised() -> None:
    """The same head again, but for its length, is not parsed again."""
    upstream = connected()
    heard(upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\n\r\nabc")
    known = upstream._known
    ((head, length, *_),) = heard(upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX: y\r\n\r\n")
    assert length == 10
    assert b"Content-Length: 10\r\n" in head
    assert upstream._known is known
