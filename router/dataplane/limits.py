"""Every limit of the data plane in one place, each a setting with a stated default."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

Bytes: TypeAlias = Annotated[int, msgspec.Meta(gt=0)]
Count: TypeAlias = Annotated[int, msgspec.Meta(gt=0)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]

KIB = 1024
MIB = 1024 * KIB


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client or a replica may cost us. Sizes in bytes, times in seconds."""

    head_bytes: Bytes = 32 * KIB
    """Longest request line and headers together; beyond it 431."""
    reply_head_bytes: Bytes = 64 * KIB
    """Longest response head of a replica; beyond it the attempt has failed."""
    body_bytes: Bytes = 64 * MIB
    """Longest request body; beyond it 413."""
    total_body_bytes: Bytes = 1024 * MIB
    """Request bodies held in memory by all connections together; beyond it 503 with Retry-After."""
    pipelined_bytes: Bytes = 64 * KIB
    """What a client may send ahead while its request is being answered; beyond it the connection is closed."""
    connections: Count = 10_000
    """Client connections at once; one more is answered 503 with Retry-After and closed."""
    header_seconds: Seconds = 10.0
    """From the first byte of a head to its last; beyond it 408."""
    body_seconds: Seconds = 120.0
    """From the end of the head to the end of the body; beyond it 408."""
    keep_alive_seconds: Seconds = 75.0
    """How long an idle client connection is kept, from its opening or its last answer."""
    stall_seconds: Seconds = 300.0
    """How long bytes may wait for a client that reads nothing before it is cut off."""
    linger_seconds: Seconds = 2.0
    """How long a refused client's unread bytes are thrown away, so that it can read why; and how long the last bytes
    of a connection that is to be closed may take, once a reply was cut."""
    connect_seconds: Seconds = 1.0
    """From the wish for a connection to a replica to its being open, TLS and name look-up included."""
    pool_idle_seconds: Seconds = 4.0
    """How long an idle replica connection is kept: shorter than the 5 s after which uvicorn, hence vLLM, closes it."""
    pool_connections: Count = 256
    """Idle connections kept per endpoint."""
    resolve_seconds: Seconds = 10.0
    """How long the addresses of a replica's host name are believed before they are looked up again."""
    high_water_bytes: Bytes = 64 * KIB
    """Bytes waiting for one peer at which the other is no longer read. One read (at most 256 KiB) may come on top."""
    low_water_bytes: Bytes = 16 * KIB
    """Bytes waiting at which reading goes on."""
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """How long exchanges under way may take to end once the router is told to stop."""

    def __post_init__(self) -> None:
        if self.low_water_bytes > self.high_water_bytes:
            raise ValueError("low_water_bytes is larger than high_water_bytes")

    @property
    def sweep_seconds(self) -> float:
        """Period of the one timer that enforces the times above: half a second, less when a limit is very short."""
        shortest = min(self.header_seconds, self.body_seconds, self.keep_alive_seconds, self.stall_seconds)
        return max(0.01, min(0.5, shortest / 4, self.linger_seconds / 4, self.pool_idle_seconds / 4))
