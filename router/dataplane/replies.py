"""Answers that the router gives itself, and how they look on the wire."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

import orjson

from kvroute.router.dataplane.contract import Headers, Reply

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


def refusal(status: int, message: str, headers: Headers = ()) -> Reply:
    """An error in vLLM's own shape; the connection closes after it."""
    kind = "BadRequestError" if status < 500 else "ServiceUnavailableError" if status == 503 else "InternalServerError"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return Reply(status, orjson.dumps({"error": error}), headers, close=True)


def overloaded(message: str) -> Reply:
    """503 with Retry-After."""
    return refusal(503, message, ((b"Retry-After", b"1"),))


def wire(reply: Reply, connection: bytes, head_only: bool) -> bytes:
    """The whole answer as bytes. `connection`: a Connection header line, or nothing."""
    lines = [b"%b: %b\r\n" % header for header in reply.headers]
    if reply.body or reply.status not in (204, 304):
        lines.append(b"Content-Type: %b\r\nContent-Length: %d\r\n" % (reply.content_type, len(reply.body)))
    return b"HTTP/1.1 %d %b\r\nDate: %b\r\n%b%b\r\n%b" % (
        reply.status,
        _REASONS.get(reply.status, b"Unknown"),
        formatdate(usegmt=True).encode(),
        b"".join(lines),
        connection,
        b"" if head_only else reply.body,
    )
