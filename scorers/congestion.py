"""`congestion`: what a miss costs those who come next."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Floats, Part, Request

BUSY_CAP = 0.95
"""rho above this counts as this: the queueing factor 1/(1-rho) stays at 20 or less."""
FULL_SHARE = 0.97
"""A cache filled to this share evicts somebody's blocks for each miss."""


class Congestion:
    """`T * (rho/(1-rho) + full)`: others' delay behind this prefill, and the recomputing of what it evicts.

    rho is the 30 s moving share of the time that the replica had a request without first output, capped at 0.95;
    `rho/(1-rho)` is the queueing factor of a busy server. full = 1 where the cache is at least 97 % full.
    Formula: the `congestion` row of docs/scorers.md.
    """

    __slots__ = ()
    part: Part = "cost"

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """Seconds that fall on other requests."""
        table = candidates.table
        rho = np.minimum(table[Column.BUSY], BUSY_CAP)
        full = table[Column.CACHED_TOKENS] >= FULL_SHARE * table[Column.CAPACITY_TOKENS]
        factor: Floats = rho / (1.0 - rho) + full
        return candidates.prefill_seconds * factor
