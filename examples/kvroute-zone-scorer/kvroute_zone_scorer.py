"""A replica in another zone costs the network's round trip, and what the operator adds for the traffic."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Floats, Part, Request


class Zone:
    """`seconds` for each replica whose label `zone` is not `home`; a replica without the label is at home."""

    part: Part = "start"

    def __init__(self, *, home: str, seconds: float = 0.05) -> None:
        self.home = home
        self.away = seconds

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """Shape (n,) [seconds]."""
        homes = [label.get("zone", self.home) == self.home for label in candidates.labels]
        return np.where(homes, 0.0, self.away)
