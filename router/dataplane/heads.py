"""Heads: what llhttp lets pass and we refuse, which headers are for this hop only, and the heads we write."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import httptools
import msgspec

from kvroute.router.dataplane.contract import Exchange, Head, Headers

CHUNKED = -1
"""`length` of a body in chunks."""
UNBOUNDED = -2
"""`length` of a reply that ends with its connection."""

_ORDINARY, _DROP, _CONNECTION, _HOST, _LENGTH, _CODING, _EXPECT, _UPGRADE = range(8)
_FORWARDED_FOR, _FORWARDED, _REQUEST_ID, _TYPE, _CONTENT_CODING = range(8, 13)
_SPECIAL = {
    b"connection": _CONNECTION,
    b"content-encoding": _CONTENT_CODING,
    b"content-length": _LENGTH,
    b"content-type": _TYPE,
    b"expect": _EXPECT,
    b"forwarded": _FORWARDED,
    b"host": _HOST,
    b"keep-alive": _DROP,
    b"proxy-connection": _DROP,
    b"te": _DROP,
    b"transfer-encoding": _CODING,
    b"upgrade": _UPGRADE,
    b"x-forwarded-for": _FORWARDED_FOR,
    b"x-request-id": _REQUEST_ID,
}
_FRAMING = (_LENGTH, _CODING)
_HOP = (_DROP, _UPGRADE)
_NEVER_NOMINATED = frozenset((b"content-length", b"content-type", b"host", b"authorization"))
"""End-to-end fields that a Connection header cannot take away (a known way to confuse the next hop)."""
_HOST_VALUE = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=-]*(?::[0-9]*)?|\[[0-9A-Fa-f:.v]+\](?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)", re.IGNORECASE)
_kinds: dict[bytes, int] = {}
_KINDS_KEPT = 2048


class HeadError(Exception):
    """A head that is refused, with the status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class RequestHead(msgspec.Struct, gc=False):
    """A request head, checked, and what of it goes upstream."""

    head: Head
    length: int
    """Body bytes announced, or CHUNKED."""
    keep_alive: bool
    """The client would send another request on this connection."""
    old: bool
    """HTTP/1.0: no chunks, no interim responses."""
    expects: bool
    """Waits for `100 Continue`."""
    websocket: bool
    """Asks for an upgrade that we tunnel."""
    lines: list[bytes]
    """The header lines that go upstream."""
    length_at: int
    """Which of `lines` is Content-Length, or -1."""
    addresses: list[bytes]
    """X-Forwarded-For values, in order."""
    forwarded: list[bytes]
    """Forwarded values, in order."""


class ReplyHead(msgspec.Struct, gc=False):
    """A replica's response head, and what of it goes to the client."""

    status: int
    reason: bytes
    length: int
    """Body bytes announced, CHUNKED or UNBOUNDED. Says nothing of replies that have no body by their nature."""
    keep_alive: bool
    """The replica keeps the connection open."""
    events: bool
    """The body is a stream of server-sent events."""
    opaque: bool
    """The body is compressed: nothing can be read in it."""
    verbatim: bool
    """The head can be relayed as it is, as long as nothing is to be added."""
    lines: list[bytes]
    """The header lines that go to the client, without the framing's own."""
    framing: list[bytes]
    """Content-Length and Transfer-Encoding lines as they came."""


class _Sink:
    """What llhttp calls: collects the target and the headers."""

    __slots__ = ("headers", "reason", "target")

    def __init__(self) -> None:
        self.target = b""
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def _kind(name: bytes) -> int:
    """What a header means to us. Spellings are remembered, a bounded number of them."""
    kind = _kinds.get(name)
    if kind is None:
        kind = _SPECIAL.get(name.lower(), _ORDINARY)
        if len(_kinds) < _KINDS_KEPT:
            _kinds[name] = kind
    return kind


def read_request(raw: bytes, request_id: str, peer: str, scheme: str) -> RequestHead:
    """Read one whole request head, its empty line included.

    Raises:
        HeadError: it is malformed, ambiguous or asks for what we do not do.
    """
    sink = _Sink()
    parser = httptools.HttpRequestParser(sink)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise HeadError(400, f"malformed request: {error}") from error
    method: bytes = parser.get_method()
    target = sink.target
    line = b"%b %b HTTP/1." % (method, target)
    version = raw[len(line) : len(line) + 3]
    if not raw.startswith(line) or version not in (b"1\r\n", b"0\r\n"):
        raise HeadError(400, "malformed request line, or not HTTP/1.0 or 1.1")
    if b"\0" in raw:
        raise HeadError(400, "NUL byte in the head")
    return _request(method, target, version == b"0\r\n", sink.headers, request_id, peer, scheme)


def _request(
    method: bytes,
    target: bytes,
    old: bool,
    headers: list[tuple[bytes, bytes]],
    request_id: str,
    peer: str,
    scheme: str,
) -> RequestHead:
    head = Head(method, target, b"", b"1.0" if old else b"1.1", headers, request_id, peer, scheme)
    request = RequestHead(head, 0, not old, old, False, False, [], -1, [], [])
    lines = request.lines
    kinds = _kinds
    hosts = 0
    named = False
    connection: list[bytes] = []
    upgrade = b""
    for name, value in headers:
        kind = kinds.get(name)
        if kind is None:
            kind = _kind(name)
        if kind == _ORDINARY or kind >= _TYPE:
            lines.append(b"%b: %b\r\n" % (name, value))
        elif kind == _CONNECTION:
            connection.append(value)
        elif kind == _HOST:
            hosts += 1
            if not _HOST_VALUE.fullmatch(value):
                raise HeadError(400, "malformed Host")
            lines.append(b"%b: %b\r\n" % (name, value))
        elif kind == _LENGTH:
            if request.length_at >= 0 or not value.isdigit() or len(value) > 18:
                raise HeadError(400, "repeated or malformed Content-Length")
            request.length = int(value)
            request.length_at = len(lines)
            lines.append(b"%b: %b\r\n" % (name, value))
        elif kind == _CODING:
            _check_coding(value, old, request.length == CHUNKED)
            request.length = CHUNKED
        elif kind == _EXPECT:
            if value.lower() != b"100-continue":
                raise HeadError(417, "the only expectation that can be met is 100-continue")
            request.expects = not old
        elif kind == _REQUEST_ID:
            if not named and value:
                head.request_id = value.decode("latin-1")
                named = True
            lines.append(b"%b: %b\r\n" % (name, value))
        elif kind == _FORWARDED_FOR:
            request.addresses.append(value)
        elif kind == _FORWARDED:
            request.forwarded.append(value)
        elif kind == _UPGRADE:
            upgrade = value
    if hosts != 1 and (hosts or not old):
        raise HeadError(400, "one Host header is required")
    if request.length == CHUNKED and request.length_at >= 0:
        raise HeadError(400, "Content-Length together with Transfer-Encoding")
    if not named:
        lines.append(b"X-Request-Id: %b\r\n" % request_id.encode())
    if connection:
        _apply_connection(request, connection, upgrade)
    _set_target(head)
    return request


def _check_coding(value: bytes, old: bool, repeated: bool) -> None:
    if old:
        raise HeadError(400, "Transfer-Encoding in HTTP/1.0")
    if repeated or value.lower() != b"chunked":
        raise HeadError(400, "the only Transfer-Encoding that is understood is chunked, once")


def _nominated(values: list[bytes]) -> set[bytes]:
    return {option.strip().lower() for value in values for option in value.split(b",")}


def _apply_connection(request: RequestHead, values: list[bytes], upgrade: bytes) -> None:
    """Honour the Connection header: keep-alive, close, upgrade, and fields that are for this hop only."""
    if len(values) == 1 and values[0] == b"keep-alive":
        request.keep_alive = True
        return
    options = _nominated(values)
    if b"close" in options:
        request.keep_alive = False
    elif b"keep-alive" in options:
        request.keep_alive = True
    if upgrade.lower() == b"websocket" and b"upgrade" in options and not request.old and not request.length:
        request.websocket = request.head.method == b"GET"
    gone = options - _NEVER_NOMINATED - {b"close", b"keep-alive", b"upgrade", b"x-request-id"}
    if gone:
        length = request.lines[request.length_at] if request.length_at >= 0 else None
        request.lines = [line for line in request.lines if line.split(b":", 1)[0].lower() not in gone]
        if length is not None:
            request.length_at = request.lines.index(length)
    if b"x-forwarded-for" in gone:
        request.addresses = []
    if b"forwarded" in gone:
        request.forwarded = []


def _set_target(head: Head) -> None:
    """Bring the target to origin form, and fill in the path that the replica will see."""
    target = head.target
    if target[:1] != b"/":
        absolute = _ABSOLUTE.match(target)
        if absolute is not None:
            host = head.header(b"host")
            if host is not None and host.lower() != absolute[1].lower():
                raise HeadError(400, "the target names another host than Host does")
            target = target[absolute.end() :]
            target = target if target[:1] == b"/" else b"/" + target
            head.target = target
        elif target != b"*" or head.method != b"OPTIONS":
            raise HeadError(400, "the request target must be a path")
    if b"#" in target:
        raise HeadError(400, "fragment in the request target")
    path = target.partition(b"?")[0]
    head.path = unquote_to_bytes(path) if b"%" in path else path


def upstream_head(request: RequestHead, exchange: Exchange) -> bytes:
    """The head that the replica gets: the client's own lines, then what a proxy adds.

    Host stays as the client sent it. The body is always sent with a Content-Length, for it is whole by then.
    """
    head = request.head
    lines = request.lines
    size = len(exchange.body)
    if request.length_at >= 0:
        if size != request.length:
            lines = lines.copy()
            lines[request.length_at] = b"Content-Length: %d\r\n" % size
    elif request.length == CHUNKED or size:
        lines = [*lines, b"Content-Length: %d\r\n" % size]
    if exchange.request_headers:
        lines = _replaced(lines, exchange.request_headers)
    peer = head.peer.encode()
    addresses = b", ".join((*request.addresses, peer)) if request.addresses else peer
    return b"%b %b%b HTTP/1.1\r\n%bX-Forwarded-For: %b\r\n%b\r\n" % (
        head.method,
        exchange.endpoint.base,
        head.target,
        b"".join(lines),
        addresses,
        _more(request, peer) if request.forwarded or request.websocket else b"",
    )


def _replaced(lines: list[bytes], headers: Headers) -> list[bytes]:
    names = {name.lower() for name, _ in headers}
    kept = [line for line in lines if line.split(b":", 1)[0].lower() not in names]
    return kept + [b"%b: %b\r\n" % header for header in headers]


def _more(request: RequestHead, peer: bytes) -> bytes:
    lines = []
    if request.forwarded:
        node = b'"[%b]"' % peer if b":" in peer else peer
        own = b"for=%b;proto=%b" % (node, request.head.scheme.encode())
        lines.append(b"Forwarded: %b\r\n" % b", ".join((*request.forwarded, own)))
    if request.websocket:
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    return b"".join(lines)


def read_reply(raw: bytes) -> ReplyHead:
    """Read one whole response head, its empty line included.

    Raises:
        HeadError: it is malformed or its framing is ambiguous.
    """
    sink = _Sink()
    parser = httptools.HttpResponseParser(sink)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise HeadError(502, f"malformed reply: {error}") from error
    new = raw.startswith(b"HTTP/1.1 ")
    if not new and not raw.startswith(b"HTTP/1.0 "):
        raise HeadError(502, "the reply is not HTTP/1.0 or 1.1")
    reply = ReplyHead(parser.get_status_code(), sink.reason, UNBOUNDED, new, False, False, new, [], [])
    connection: list[bytes] = []
    kinds = _kinds
    for name, value in sink.headers:
        kind = kinds.get(name)
        if kind is None:
            kind = _kind(name)
        if kind in _FRAMING:
            _reply_framing(reply, kind, value)
            reply.framing.append(b"%b: %b\r\n" % (name, value))
            continue
        if kind == _CONNECTION:
            connection.append(value)
            reply.verbatim = False
        elif kind == _TYPE:
            reply.events = value[:17].lower() == b"text/event-stream"
        elif kind == _CONTENT_CODING:
            reply.opaque = value.lower() != b"identity"
        elif kind in _HOP:
            reply.verbatim = False
        reply.lines.append(b"%b: %b\r\n" % (name, value))
    if reply.length == CHUNKED and not new:
        raise HeadError(502, "a chunked reply in HTTP/1.0")
    if not reply.verbatim:
        _keep_end_to_end(reply, connection)
    return reply


def _reply_framing(reply: ReplyHead, kind: int, value: bytes) -> None:
    if reply.framing:
        raise HeadError(502, "the reply's length is announced twice")
    if kind == _LENGTH:
        if not value.isdigit() or len(value) > 18:
            raise HeadError(502, "the reply's Content-Length is malformed")
        reply.length = int(value)
    elif value.lower() == b"chunked":
        reply.length = CHUNKED
    else:
        raise HeadError(502, "the reply's Transfer-Encoding is not understood")


def _keep_end_to_end(reply: ReplyHead, connection: list[bytes]) -> None:
    options = _nominated(connection)
    if b"close" in options:
        reply.keep_alive = False
    elif b"keep-alive" in options:
        reply.keep_alive = True
    gone = options - _NEVER_NOMINATED | {b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"}
    reply.lines = [line for line in reply.lines if line.split(b":", 1)[0].lower() not in gone]


def client_head(reply: ReplyHead, framing: bytes, added: Headers) -> bytes:
    """The head that the client gets when the replica's own cannot be relayed as it is. `framing`: whole lines."""
    return b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (
        reply.status,
        reply.reason,
        b"".join(reply.lines),
        b"".join([b"%b: %b\r\n" % header for header in added]),
        framing,
    )
