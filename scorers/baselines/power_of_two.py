"""`power-of-two`: the less loaded of two random replicas, as SMG and Ray Serve have it."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Request


class PowerOfTwo:
    """Two different candidates drawn at random; the one with fewer requests, the first drawn when equal."""

    __slots__ = ()

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the less loaded of two."""
        count = len(candidates)
        if count == 1:
            return 0
        first = int(rng.integers(count))
        second = int(rng.integers(count - 1))
        if second >= first:
            second += 1
        requests = candidates.table[Column.REQUESTS]
        return first if requests[first] <= requests[second] else second
