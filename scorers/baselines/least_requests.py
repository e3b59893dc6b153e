"""`least-requests`: the fewest requests running and waiting, as Envoy and KubeAI's LeastLoad have it."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Request
from kvroute.scorers.ties import drawn


class LeastRequests:
    """argmin n, equals drawn at random."""

    __slots__ = ()

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of a least loaded replica."""
        return drawn(candidates.table[Column.REQUESTS], rng)
