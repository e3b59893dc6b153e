"""What the data plane counts of itself."""

from __future__ import annotations

import msgspec


class Counters(msgspec.Struct, gc=False):
    """Totals since start, except where a line says otherwise."""

    connections: int = 0
    """Client connections accepted."""
    open_connections: int = 0
    """Client connections open now."""
    requests: int = 0
    """Request heads read."""
    refused: int = 0
    """Requests the data plane itself answered with an error."""
    body_bytes: int = 0
    """Request bytes held in memory now."""
    relays: int = 0
    """Exchanges under way now, tunnels included."""
    upstream_connects: int = 0
    """Connections opened to replicas."""
    upstream_reused: int = 0
    """Exchanges begun on a connection that was kept."""
    cut: int = 0
    """Replies that broke mid-way and were cut."""
