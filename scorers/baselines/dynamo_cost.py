"""`dynamo-cost`: blocks to prefill plus blocks that decode, as NVIDIA Dynamo's KV router."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Request
from kvroute.scorers.ties import drawn


class DynamoCost:
    """argmin `prefill_scale * max(P + in - credit * hit, 0) / block + D / block` [blocks].

    P = uncached prompt tokens there without a first output yet, D = KV tokens of running requests, shared ones once
    (this request's own blocks come on top wherever it goes, and are left out). The block divides all of it alike, so
    tokens are compared. Both weights are 1 in Dynamo. Temperature 0, its default: equals are drawn at random.
    """

    __slots__ = ("_credit", "_prefill_scale")

    def __init__(self, *, credit: float = 1.0, prefill_scale: float = 1.0) -> None:
        self._credit = credit
        self._prefill_scale = prefill_scale

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the fewest blocks."""
        table = candidates.table
        costs = table[Column.QUEUED_TOKENS] + candidates.tokens
        costs -= candidates.hit_tokens * self._credit
        np.maximum(costs, 0.0, out=costs)
        costs *= self._prefill_scale
        costs += table[Column.ACTIVE_TOKENS]
        return drawn(costs, rng)
