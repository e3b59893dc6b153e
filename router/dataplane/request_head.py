"""Request heads: what llhttp lets pass and we refuse, and the head that goes upstream."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import httptools
import msgspec

from kvroute.router.dataplane import headers as known
from kvroute.router.dataplane.contract import Exchange, Head, Headers
from kvroute.router.dataplane.headers import CHUNKED, Refused, Sink, kinds

_HOST_VALUE = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=-]*(?::[0-9]*)?|\[[0-9A-Fa-f:.v]+\](?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)", re.IGNORECASE)


class Shape(msgspec.Struct, gc=False):
    """What repeated heads of one client have in common: all but the length. Checked once, then recognised."""

    method: bytes
    target: bytes
    old: bool
    """HTTP/1.0: no chunks, no interim responses."""
    headers: list[tuple[bytes, bytes]]
    peer: str
    scheme: str
    keep_alive: bool
    """The client would send another request on this connection."""
    path: bytes = b""
    """The target without its query, percent-decoded: what the replica will route by."""
    request_id: str | None = None
    """The client's own."""
    length: int = 0
    """Body bytes announced by the head this was read from, or CHUNKED."""
    length_header: int = -1
    """Which of `headers` is Content-Length."""
    length_line: int = -1
    """Which of `lines` is Content-Length."""
    expects: bool = False
    """Waits for `100 Continue`."""
    websocket: bool = False
    """Asks for an upgrade that we tunnel."""
    lines: list[bytes] = msgspec.field(default_factory=list)
    """The header lines that go upstream as they came."""
    addresses: list[bytes] = msgspec.field(default_factory=list)
    """X-Forwarded-For values, in order."""
    forwarded: list[bytes] = msgspec.field(default_factory=list)
    """Forwarded values, in order."""
    front: bytes = b""
    """The client's bytes up to the digits of the length."""
    back: bytes = b""
    """The client's bytes from there; empty when the head cannot be recognised again."""
    front_out: bytes = b""
    """Header bytes that go upstream, up to the digits of the length."""
    back_out: bytes = b""
    """Header bytes that go upstream from there."""
    notes: list[object] = msgspec.field(default_factory=list)
    """See `Head.notes`."""


class RequestHead(msgspec.Struct, gc=False):
    """One request's head, checked."""

    head: Head
    shape: Shape
    length: int
    """Body bytes announced, or CHUNKED."""


def first_request(shape: Shape, made_id: str) -> RequestHead:
    """The request that a shape was read from."""
    return RequestHead(_head(shape, shape.headers, made_id), shape, shape.length)


def next_request(shape: Shape, digits: bytes, made_id: str) -> RequestHead | None:
    """Another request of a known shape, with a length of its own. None when `digits` are no length."""
    if shape.length_header < 0:
        return None if digits else RequestHead(_head(shape, shape.headers, made_id), shape, shape.length)
    if not digits.isdigit() or len(digits) > 18:
        return None
    headers = shape.headers
    name, value = headers[shape.length_header]
    if value != digits:
        headers = headers.copy()
        headers[shape.length_header] = (name, digits)
    return RequestHead(_head(shape, headers, made_id), shape, int(digits))


def _head(shape: Shape, headers: list[tuple[bytes, bytes]], made_id: str) -> Head:
    return Head(
        shape.method,
        shape.target,
        shape.path,
        b"1.0" if shape.old else b"1.1",
        headers,
        shape.request_id or made_id,
        shape.peer,
        shape.scheme,
        shape.notes,
    )


def read_request(raw: bytes, peer: str, scheme: str) -> Shape:
    """Read one whole request head, its empty line included.

    Raises:
        Refused: it is malformed, ambiguous or asks for what we do not do.
    """
    sink = Sink()
    parser = httptools.HttpRequestParser(sink)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise Refused(400, f"malformed request: {error}") from error
    method: bytes = parser.get_method()
    line = b"%b %b HTTP/1." % (method, sink.target)
    version = raw[len(line) : len(line) + 3]
    if not raw.startswith(line) or version not in (b"1\r\n", b"0\r\n"):
        raise Refused(400, "malformed request line, or not HTTP/1.0 or 1.1")
    if b"\0" in raw:
        raise Refused(400, "NUL byte in the head")
    old = version == b"0\r\n"
    shape = Shape(method, sink.target, old, sink.headers, peer, scheme, not old)
    _read_headers(shape)
    _set_target(shape)
    _finish(shape, raw)
    return shape


def _read_headers(shape: Shape) -> None:
    hosts = 0
    connection: list[bytes] = []
    upgrade = b""
    for index, (name, value) in enumerate(shape.headers):
        kind = kinds[name]
        if kind == known.CONNECTION:
            connection.append(value)
        elif kind == known.CODING:
            if shape.old:
                raise Refused(400, "Transfer-Encoding in HTTP/1.0")
            if shape.length == CHUNKED or value.lower() != b"chunked":
                raise Refused(400, "the only Transfer-Encoding that is understood is chunked, once")
            shape.length = CHUNKED
        elif kind == known.EXPECT:
            if value.lower() != b"100-continue":
                raise Refused(417, "the only expectation that can be met is 100-continue")
            shape.expects = not shape.old
        elif kind == known.FORWARDED_FOR:
            shape.addresses.append(value)
        elif kind == known.FORWARDED:
            shape.forwarded.append(value)
        elif kind == known.UPGRADE:
            upgrade = value
        elif kind != known.DROP:
            if kind == known.LENGTH:
                _read_length(shape, index, value)
            elif kind == known.HOST:
                hosts += 1
                if not _HOST_VALUE.fullmatch(value):
                    raise Refused(400, "malformed Host")
            elif kind == known.REQUEST_ID and value and shape.request_id is None:
                shape.request_id = value.decode("latin-1")
            shape.lines.append(b"%b: %b\r\n" % (name, value))
    if hosts != 1 and (hosts or not shape.old):
        raise Refused(400, "one Host header is required")
    if shape.length_header >= 0 and shape.length == CHUNKED:
        raise Refused(400, "Content-Length together with Transfer-Encoding")
    if connection:
        _apply_connection(shape, connection, upgrade)


def _read_length(shape: Shape, index: int, value: bytes) -> None:
    if shape.length_header >= 0 or not value.isdigit() or len(value) > 18:
        raise Refused(400, "repeated or malformed Content-Length")
    if shape.length != CHUNKED:
        shape.length = int(value)
    shape.length_header = index
    shape.length_line = len(shape.lines)


def _apply_connection(shape: Shape, values: list[bytes], upgrade: bytes) -> None:
    """Honour the Connection header: keep-alive, close, upgrade, and fields that are for this hop only."""
    options = known.options(values)
    if b"close" in options:
        shape.keep_alive = False
    elif b"keep-alive" in options:
        shape.keep_alive = True
    if upgrade.lower() == b"websocket" and b"upgrade" in options and not shape.old and not shape.length:
        shape.websocket = shape.method == b"GET"
    gone = known.nominated(options)
    if gone:
        length = shape.lines[shape.length_line] if shape.length_line >= 0 else b""
        shape.lines = known.without(shape.lines, gone)
        shape.length_line = shape.lines.index(length) if length else -1
    if b"x-forwarded-for" in gone:
        shape.addresses = []
    if b"forwarded" in gone:
        shape.forwarded = []


def _set_target(shape: Shape) -> None:
    """Bring the target to origin form, and fill in the path."""
    target = shape.target
    if target[:1] != b"/":
        absolute = _ABSOLUTE.match(target)
        if absolute is not None:
            hosts = [value for name, value in shape.headers if kinds[name] == known.HOST]
            if any(host.lower() != absolute[1].lower() for host in hosts):
                raise Refused(400, "the target names another host than Host does")
            target = target[absolute.end() :]
            target = target if target[:1] == b"/" else b"/" + target
            shape.target = target
        elif target != b"*" or shape.method != b"OPTIONS":
            raise Refused(400, "the request target must be a path")
    if b"#" in target:
        raise Refused(400, "fragment in the request target")
    path = target.partition(b"?")[0]
    shape.path = unquote_to_bytes(path) if b"%" in path else path


def _finish(shape: Shape, raw: bytes) -> None:
    """Prepare what goes upstream, and what the same head is recognised by."""
    at = shape.length_line
    more = _proxy_lines(shape)
    if at >= 0:
        line = shape.lines[at]
        shape.front_out = b"".join(shape.lines[:at]) + line[: line.index(b":") + 2]
        shape.back_out = b"\r\n" + b"".join(shape.lines[at + 1 :]) + more
    else:
        shape.front_out = b"".join(shape.lines)
        shape.back_out = more
    if len(raw) > known.REMEMBERED_BYTES:
        return
    if at < 0:
        shape.front, shape.back = raw[:-4], raw[-4:]
    else:
        cut = known.length_cut(raw, *shape.headers[shape.length_header])
        if cut is not None:
            shape.front, shape.back = cut


def _proxy_lines(shape: Shape) -> bytes:
    """What a proxy adds, the request id aside."""
    peer = shape.peer.encode()
    lines = [b"X-Forwarded-For: %b\r\n" % b", ".join((*shape.addresses, peer))]
    if shape.forwarded:
        node = b'"[%b]"' % peer if b":" in peer else peer
        own = b"for=%b;proto=%b" % (node, shape.scheme.encode())
        lines.append(b"Forwarded: %b\r\n" % b", ".join((*shape.forwarded, own)))
    if shape.websocket:
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    return b"".join(lines)


def upstream_head(request: RequestHead, exchange: Exchange) -> bytes:
    """The head that the replica gets: the client's own lines, then what a proxy adds.

    Host stays as the client sent it. The body is always sent with a Content-Length, for it is whole by then.
    """
    shape = request.shape
    base = exchange.endpoint.base
    size = len(exchange.body)
    identity = b"\r\n" if shape.request_id else b"X-Request-Id: %b\r\n\r\n" % request.head.request_id.encode()
    if exchange.request_headers:
        length = b"Content-Length: %d\r\n" % size if size or request.length else b""
        lines = _replaced(shape, exchange.request_headers)
        pieces = (b"".join(lines), length, _proxy_lines(shape))
    elif shape.length_line >= 0:
        pieces = (shape.front_out, b"%d" % size, shape.back_out)
    elif size or request.length:
        pieces = (shape.front_out, b"Content-Length: %d\r\n" % size, shape.back_out)
    else:
        pieces = (shape.front_out, b"", shape.back_out)
    return b"".join((shape.method, b" ", base, shape.target, b" HTTP/1.1\r\n", *pieces, identity))


def _replaced(shape: Shape, headers: Headers) -> list[bytes]:
    """The client's lines without its length and without those that `headers` replace, and `headers`."""
    names = {name.lower() for name, _ in headers} | {b"content-length"}
    return known.without(shape.lines, names) + [b"%b: %b\r\n" % header for header in headers]
