"""`round-robin`: everybody in turn."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Request


class RoundRobin:
    """The least recently chosen replica: the same turns as a counter's, kept when replicas come and go."""

    __slots__ = ()

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the replica whose turn it is."""
        return int(candidates.table[Column.CHOSEN].argmin())
