"""Response heads of replicas: framing that can be trusted, and the head that goes to the client."""

from __future__ import annotations

import httptools
import msgspec

from kvroute.router.dataplane import headers as known
from kvroute.router.dataplane.contract import Headers
from kvroute.router.dataplane.headers import CHUNKED, UNBOUNDED, Refused, Sink, kinds


class ReplyHead(msgspec.Struct, gc=False):
    """A replica's response head, and what of it goes to the client."""

    status: int
    reason: bytes
    length: int
    """Body bytes announced, CHUNKED or UNBOUNDED. Says nothing of replies that have no body by their nature."""
    keep_alive: bool
    """The replica keeps the connection open."""
    verbatim: bool
    """The head can be relayed as it is, as long as nothing is to be added."""
    events: bool = False
    """The body is a stream of server-sent events."""
    opaque: bool = False
    """The body is compressed: nothing can be read in it."""
    lines: list[bytes] = msgspec.field(default_factory=list)
    """The header lines that go to the client, without the framing's own."""
    framing: bytes = b""
    """The name of the header that frames the body, as it was spelt."""
    front: bytes = b""
    """The replica's bytes up to the digits of the length."""
    back: bytes = b""
    """The replica's bytes from there; empty when the head cannot be recognised again."""


def read_reply(raw: bytes) -> ReplyHead:
    """Read one whole response head, its empty line included.

    Raises:
        Refused: it is malformed or its framing is ambiguous.
    """
    sink = Sink()
    parser = httptools.HttpResponseParser(sink)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise Refused(502, f"malformed reply: {error}") from error
    new = raw.startswith(b"HTTP/1.1 ")
    if not new and not raw.startswith(b"HTTP/1.0 "):
        raise Refused(502, "the reply is not HTTP/1.0 or 1.1")
    reply = ReplyHead(parser.get_status_code(), sink.reason, UNBOUNDED, new, new)
    digits = _read_headers(reply, sink.headers)
    if reply.length == CHUNKED and not new:
        raise Refused(502, "a chunked reply in HTTP/1.0")
    if len(raw) <= known.REMEMBERED_BYTES:
        cut = known.length_cut(raw, reply.framing, digits) if digits else (raw[:-4], raw[-4:])
        reply.front, reply.back = cut or (b"", b"")
    return reply


def _read_headers(reply: ReplyHead, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Fill in what the headers say. Returns the digits of Content-Length, or nothing."""
    connection: list[bytes] = []
    digits = b""
    for name, value in headers:
        kind = kinds[name]
        if kind == known.LENGTH or kind == known.CODING:
            if reply.framing:
                raise Refused(502, "the reply's length is announced twice")
            reply.framing = name
            if kind == known.LENGTH:
                digits = value
                reply.length = _length(value)
            elif value.lower() == b"chunked":
                reply.length = CHUNKED
            else:
                raise Refused(502, "the reply's Transfer-Encoding is not understood")
            continue
        if kind == known.CONNECTION:
            connection.append(value)
            reply.verbatim = False
        elif kind == known.TYPE:
            reply.events = value[:17].lower() == b"text/event-stream"
        elif kind == known.CONTENT_CODING:
            reply.opaque = value.lower() != b"identity"
        elif kind == known.DROP or kind == known.UPGRADE:
            reply.verbatim = False
            continue
        reply.lines.append(b"%b: %b\r\n" % (name, value))
    if connection:
        _apply_connection(reply, connection)
    return digits


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise Refused(502, "the reply's Content-Length is malformed")
    return int(value)


def _apply_connection(reply: ReplyHead, values: list[bytes]) -> None:
    options = known.options(values)
    if b"close" in options:
        reply.keep_alive = False
    elif b"keep-alive" in options:
        reply.keep_alive = True
    reply.lines = known.without(reply.lines, known.nominated(options) | {b"connection"})


def framing_line(reply: ReplyHead, length: int) -> bytes:
    """The line that frames the body, in the replica's spelling; nothing when there is none."""
    if not reply.framing:
        return b""
    return b"%b: %b\r\n" % (reply.framing, b"chunked" if length == CHUNKED else b"%d" % length)


def client_head(reply: ReplyHead, framing: bytes, added: Headers) -> bytes:
    """The head that the client gets when the replica's own cannot be relayed as it is. `framing`: whole lines."""
    return b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (
        reply.status,
        reply.reason,
        b"".join(reply.lines),
        b"".join([b"%b: %b\r\n" % header for header in added]),
        framing,
    )
