"""Where the knowledge of a replica's cache comes from, and so how far it goes."""

from __future__ import annotations

import enum


class Source(enum.Enum):
    """Of one replica."""

    EXPECTED = "expected"
    """No KV events: what was sent there, in the engine's order of eviction."""
    RECOVERING = "recovering"
    """KV events, but some are lost for good: what they told since, and what is expected beside it."""
    EXACT = "exact"
    """KV events since the engine started, or since its cache was last cleared: they tell all."""
