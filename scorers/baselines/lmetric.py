"""`lmetric`: prefill work times requests, without weights (arXiv 2603.15202)."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Request
from kvroute.scorers.ties import least_recent


class LMetric:
    """argmin `(P + miss) * (n + 1)`: P = uncached prompt tokens queued there, n = requests there."""

    __slots__ = ()

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the smallest product; the least recently chosen of equals."""
        table = candidates.table
        work = table[Column.QUEUED_TOKENS] + candidates.miss_tokens
        return least_recent(work * (table[Column.REQUESTS] + 1.0), candidates)
