"""`cache-aware-threshold`: longest match unless load is uneven, as `cache_aware` of SMG, SGLang and vllm-project."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Request
from kvroute.scorers.ties import least_recent


class CacheAwareThreshold:
    """Two gates, then a match, with n = requests running and waiting there and `in` = prompt tokens:

    1. `max(n) - min(n) > balance_abs` and `max(n) > balance_rel * min(n)`: argmin n;
    2. else, if `max(hit) / in > match`: a holder of the longest match;
    3. else the replica with the smallest tree.

    Defaults as in all three sources: 64 requests, 1.5, 0.3. Their trees record what each replica was sent; here the
    smallest tree is the fewest CACHED_TOKENS [tokens] (vllm-project's newer releases take argmin n there). Equals: the
    least recently chosen; the sources take the first of their list, or any holder, which is no rule.
    """

    __slots__ = ("_balance_abs", "_balance_rel", "_match")

    def __init__(self, *, balance_abs: float = 64.0, balance_rel: float = 1.5, match: float = 0.3) -> None:
        if not 0.0 <= match <= 1.0:
            raise ValueError(f"match must be from 0 to 1, not {match}")
        self._balance_abs = balance_abs
        self._balance_rel = balance_rel
        self._match = match

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of a least loaded replica, of a longest match, or of the emptiest cache."""
        table, hits = candidates.table, candidates.hit_tokens
        requests = table[Column.REQUESTS]
        most, least = requests.item(requests.argmax()), requests.item(requests.argmin())
        if most - least > self._balance_abs and most > self._balance_rel * least:
            return least_recent(requests, candidates)
        if hits.item(hits.argmax()) / max(candidates.tokens, 1) > self._match:
            return least_recent(-hits, candidates)
        return least_recent(table[Column.CACHED_TOKENS], candidates)
