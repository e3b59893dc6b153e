"""`random`: any replica, all equally likely."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Request


class Uniform:
    """A replica drawn uniformly."""

    __slots__ = ()

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """A random index."""
        return int(rng.integers(len(candidates)))
