"""What is simulated: a fleet, a policy, and how late the router knows what it knows."""

from __future__ import annotations

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


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run's fleet and router. The workload comes beside it."""

    replicas: tuple[Kind, ...]
    """One entry an endpoint."""
    policy: PolicySpec = PolicySpec("latency")
    seed: int = 0
    lateness: Lateness = Lateness()
    stepwise: bool = False
    """Compute every step (the reference) instead of many at once."""
