"""`lpwl`: least prefill work left, from the research on agents' KV caches."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Request
from kvroute.scorers.ties import least_recent


class Lpwl:
    """argmin `P + miss` [tokens]: P = uncached prompt tokens queued there, miss = this request's own."""

    __slots__ = ()

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the least work; the least recently chosen of equals."""
        return least_recent(candidates.table[Column.QUEUED_TOKENS] + candidates.miss_tokens, candidates)
