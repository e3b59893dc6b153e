"""Exchanges with a server on loopback, as bytes: whole replies, and streams read as they come."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.vllm.processes import HANG

JSON = {"Content-Type": "application/json"}
VARYING = (
    (re.compile(rb'"id":"(cmpl|chatcmpl|resp|msg|modelperm)[-_][^"]*"'), rb'"id":"\1-*"'),
    (re.compile(rb'"(created|created_at)":\d+'), rb'"\1":0'),
)
"""Identifiers and times: what two equal answers may differ in."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply: its status, its headers by lower-case name, its body without transfer coding."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def settled(self) -> bytes:
        """The body with identifiers and times blanked."""
        body = self.body
        for pattern, blank in VARYING:
            body = pattern.sub(blank, body)
        return body


def encode(body: object) -> bytes:
    """JSON as bytes; bytes as they are."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def exchange(port: int, path: str, body: object = None, method: str = "POST", **headers: str) -> Answer:
    """Sends one request and reads its whole reply. `headers` are written with underscores for hyphens."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)) as connection:
        named = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, None if body is None else encode(body), named)
        reply = connection.getresponse()
        return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())


@contextlib.contextmanager
def opened(port: int, path: str, body: object) -> Iterator[http.client.HTTPConnection]:
    """A connection on which a request was sent; leaving the block closes it, whatever was read until then."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)) as connection:
        connection.request("POST", path, encode(body), JSON)
        yield connection


def events(reply: http.client.HTTPResponse) -> Iterator[bytes]:
    """The data of each SSE event as it comes, `[DONE]` included."""
    for line in reply:
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ").rstrip(b"\r\n")


def time_to_first_token(port: int, path: str, body: object) -> tuple[float, bytes]:
    """Seconds from sending a streaming request until the first event that carries text, and all its text."""
    began, first, text = time.monotonic(), None, b""
    with opened(port, path, body) as connection:
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()
        for event in events(reply):
            said = content(event)
            if said and first is None:
                first = time.monotonic() - began
            text += said
    assert first is not None, "the stream ended without a token"
    return first, text


def content(event: bytes) -> bytes:
    """The text that an event of a completion or chat stream carries."""
    if event == b"[DONE]":
        return b""
    choices = json.loads(event).get("choices", [])
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices).encode()
