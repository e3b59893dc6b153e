"""What is simulated: a fleet, a policy, and how late the router knows what it knows."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from kvroute.scorers.plugins import PolicySpec
from kvroute.simulator.latency.kind import Kind


class Lateness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the live router learns late, or not at all."""

    knowledge: Literal["expected", "exact"] = "expected"
    """Where its knowledge of the caches comes from: its own decisions and what replies report, or KV events."""
    event_seconds: float = 0.005
    """From the end of a step to its KV events in the index [s]."""
    scrape_seconds: float = 1.0
    """Between two readings of a replica's /metrics; they show load that is not this router's [s]."""
    routers: int = 1
    """Routers that the requests are spread over at random."""
    share_seconds: float | None = None
    """Delay with which routers learn of each other's requests (Redis: 5 ms); None: they share nothing [s]."""

    def __post_init__(self) -> None:
        if not 0 <= self.event_seconds < math.inf:
            raise ValueError(f"event_seconds is at least 0, not {self.event_seconds}")
        if not 0 < self.scrape_seconds < math.inf:
            raise ValueError(f"scrape_seconds is above 0, not {self.scrape_seconds}")
        if self.routers < 1:
            raise ValueError(f"routers is at least 1, not {self.routers}")
        if self.share_seconds is not None and not 0 <= self.share_seconds < math.inf:
            raise ValueError(f"share_seconds is at least 0, or None, not {self.share_seconds}")


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run's fleet and router. The workload comes beside it."""

    replicas: tuple[Kind, ...]
    """One entry an endpoint."""
    policy: PolicySpec = PolicySpec("latency")
    seed: int = 0
    lateness: Lateness = Lateness()
    stepwise: bool = False
    """Compute every step (the reference) instead of many at once."""
