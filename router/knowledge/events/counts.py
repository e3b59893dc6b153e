"""What one replica's KV events brought, in numbers."""

from __future__ import annotations

import msgspec


class StreamCounts(msgspec.Struct):
    """Counters since this router follows the replica's events: who takes over from another counts from nothing."""

    batches: int = 0
    """Applied, live or from a replay."""
    duplicates: int = 0
    """Batches that had been applied before."""
    malformed: int = 0
    """Batches that could not be read; what the replica held is forgotten then."""
    stored: int = 0
    """Blocks that entered what is observed."""
    removed: int = 0
    """Blocks that left it."""
    cleared: int = 0
    """Times that the engine forgot its whole cache."""
    removed_unknown: int = 0
    """Blocks told to be removed that were not known."""
    stored_unknown: int = 0
    """Blocks copied to another medium that were not known."""
    ignored: int = 0
    """Blocks of groups that are no plain prefixes: sliding windows, state spaces."""
    unusable: int = 0
    """Blocks whose size is no multiple of ours, or whose tokens are not told in full."""
    unknown: int = 0
    """Events of kinds that are not known."""
    orphans: int = 0
    """Blocks kept aside because their parent was unknown."""
    anchored: int = 0
    """Of those, blocks whose place was found."""
    orphans_dropped: int = 0
    """Of those, blocks given up: there were too many."""
    gaps: int = 0
    """Times that batches were missing."""
    lost: int = 0
    """Times that they could not be had again, and what the replica held was forgotten."""
    restarts: int = 0
    """Times that the engine began anew."""
