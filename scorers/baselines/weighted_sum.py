"""`weighted-sum`: queue, KV use and prefix match with weights, as the llm-d router had it before mid 2026."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Request
from kvroute.scorers.ties import least_recent


class WeightedSum:
    """argmax `queue * (max(w) - w) / (max(w) - min(w)) + kv * (1 - K) + prefix * hit / in`, without a unit.

    w = requests waiting there: no column tells those that the engine has not begun, so all without a first output
    count, REQUESTS - DECODING; equal queues score 1. K = tokens of running requests / capacity, at most 1; 0 where the
    capacity is unknown. Weights 2, 2, 3 as in llm-d's configuration. Equals take turns: the least recently chosen.
    """

    __slots__ = ("_kv", "_prefix", "_queue")

    def __init__(self, *, queue: float = 2.0, kv: float = 2.0, prefix: float = 3.0) -> None:
        self._queue = queue
        self._kv = kv
        self._prefix = prefix

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the largest sum. It is turned round, and what all have alike is left out."""
        table = candidates.table
        waiting = np.maximum(table[Column.REQUESTS] - table[Column.DECODING], 0.0)
        waiting -= waiting[waiting.argmin()]
        longest = waiting.item(waiting.argmax())
        costs = np.minimum(table[Column.ACTIVE_TOKENS] / table[Column.CAPACITY_TOKENS], 1.0)
        costs *= self._kv
        if longest > 0.0:
            costs += waiting * (self._queue / longest)
        costs -= candidates.hit_tokens * (self._prefix / max(candidates.tokens, 1))
        return least_recent(costs, candidates)
