"""The data plane's one door to the rest: what it asks for, and what it reports back. Bytes in, no scoring."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeAlias, final

import msgspec

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


class Head(msgspec.Struct, gc=False):
    """A request head as the client sent it. Header names keep their case; `path` is the target without its query,
    percent-decoded: what the replica will route by. The headers are shared with later requests: never change them."""

    method: bytes
    target: bytes
    path: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    request_id: str
    """The client's X-Request-Id, or one made here."""
    peer: str
    """Client address, for X-Forwarded-For."""
    scheme: str = "http"
    notes: list[object] = []
    """Room for what the handler makes of path and headers; like them, shared with later heads that are the same."""

    def header(self, name: bytes) -> bytes | None:
        """First value of a header, by lower-case name."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


@final
class Reply(msgspec.Struct, gc=False):
    """A whole answer that the router gives itself."""

    status: int
    body: bytes = b""
    headers: Headers = ()
    content_type: bytes = b"application/json"
    close: bool = False


class Endpoint(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """Where a replica listens. `base` is the path its URL carries, without a trailing slash."""

    host: str
    port: int
    tls: bool = False
    base: bytes = b""

    @property
    def name(self) -> str:
        """`host:port`, IPv6 hosts in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Failure(enum.Enum):
    """How an attempt at one endpoint failed before any response byte was relayed."""

    CONNECT = "connect"
    """No connection, or TLS failed: nothing was sent."""
    STALE = "stale"
    """A reused idle connection turned out closed before it answered."""
    CUT = "cut"
    """The connection broke after body bytes were sent, before the reply could be relayed."""
    PROTOCOL = "protocol"
    """The replica sent what is not HTTP."""


class Outcome(enum.Enum):
    """How an accepted request ended; exactly one of these, once."""

    COMPLETED = "completed"
    """The replica's whole reply was relayed, whatever its status."""
    FAILED = "failed"
    """The router answered with an error status of its own, or cut a reply that broke mid-way."""
    ABORTED = "aborted"
    """The client went away."""


class Exchange(Protocol):
    """One accepted request on its way: where it goes now, and everything that is learnt of it.

    The data plane calls `body_sent` when the first upstream body byte of an attempt is written, `replied` when the
    response head is in, `first_output` at the first SSE data event that carries no error and does not just open the
    stream (streams only), `head` and `tail` with the first and the last bytes of the body, `failed` when an attempt
    fails before any of its reply was relayed (`replied` and what follows it may then come again; of an attempt that
    failed nothing but `body_sent` and `replied` was reported), `streamed` when a relayed stream is over, and `settle`
    exactly once.
    """

    endpoint: Endpoint
    body: bytes
    """What goes upstream as the body: the client's own bytes unless a re-write was demanded."""
    request_headers: Headers
    """Added to the upstream head (e.g. X-data-parallel-rank)."""
    response_headers: Headers
    """Added to the client's response head (explain, replica name)."""

    def body_sent(self) -> None: ...

    def replied(self, status: int, streaming: bool, now: float) -> None: ...

    def first_output(self, now: float) -> None: ...

    def head(self, data: bytes) -> None:
        """The first bytes of a 2xx reply's body (1 KiB, or the whole of a shorter one), without framing; not when it
        is compressed."""
        ...

    def streamed(self, pieces: int) -> None:
        """A stream is over, whole or not; just before `tail` and `settle`. `pieces`: the segments in which it came,
        from that of the first output on (that one included; 0 when there was no output)."""
        ...

    def tail(self, data: bytes, streaming: bool) -> None:
        """The last bytes of a 2xx reply's body (at most 8 KiB), just before a COMPLETED settle; those of a stream only
        where `"usage":` may stand in them."""
        ...

    def failed(self, failure: Failure, now: float) -> Reply | None:
        """The attempt failed. None: `endpoint` now names another try; Reply: give up with this answer."""
        ...

    def settle(self, outcome: Outcome, now: float) -> None: ...


class Handler(Protocol):
    """What stands behind the data plane."""

    def admit(self, head: Head) -> Reply | None:
        """Called when a head is complete, before its body is read: a Reply refuses (the connection then closes if
        the body was not read). Also where admission control lives."""
        ...

    def handle(self, head: Head, body: bytes, now: float) -> Reply | Exchange | Awaitable[Reply | Exchange]:
        """Called with the whole body. A Reply is the router's own answer; an Exchange is to be forwarded."""
        ...

    def tunnel(self, head: Head, now: float) -> Reply | Exchange:
        """Called for an Upgrade request: where to tunnel it. Only `endpoint`, headers and `settle` are used."""
        ...
