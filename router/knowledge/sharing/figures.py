"""What there is to show of the sharing: the state of the store, what was told and heard, what was lost."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kvroute.router.knowledge.sharing.store import Trouble


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """As of one moment. Counters are since the start."""

    trouble: Trouble | None
    """What is wrong with the store; None: nothing."""
    since: float
    """When that began [s], by the clock of requests."""
    failures: Mapping[Trouble, int]
    """Calls that the store did not serve."""
    round_trip: float
    """Of a batch of writes, moving mean [s]."""
    flushes: int
    """Batches of records that were told."""
    told: int
    """Records that were told."""
    waiting: int
    """Records that are still to be told."""
    dropped: int
    """Records that were not, for lack of room."""
    heard: int
    """Records of other routers taken in."""
    lag: float
    """From a beat's writing to its reading: how old what is heard may be [s]."""
    lost: int
    """Entries of other routers that were gone before they were read."""
    repeated: int
    """Entries that came again."""
    malformed: int
    """Entries that no router of this version wrote."""
    routers: int
    """Other routers that are alive."""
    foreign: int
    """Open requests of other routers."""
    lapses: int
    """Times that this router was silent for so long that others may have given it up."""
    cold: int
    """Replicas whose Stream has not been read from its beginning yet."""
    ingesting: int
    """Replicas whose events this router follows for all."""
    observed_gaps: int
    """Times that an observed log went on elsewhere than where we were."""
    snapshots_loaded: int
    """Times that an observed log was read from its snapshot."""
