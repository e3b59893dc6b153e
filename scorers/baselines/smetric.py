"""`smetric`: stay with the session's replica within the SLO, else balance work, as vllm-project's router."""

from __future__ import annotations

import math

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Floats, Request
from kvroute.scorers.ties import least_recent


class SMetric:
    """`load = Q + c_lin * miss + c_att * miss * (in - miss/2)` [linear-token equivalents], Q = the same of all requests
    there without a first output yet. The longest holder (of equals the least loaded) keeps the request while
    `hit > hit_ratio * in` and `load * s/token <= slack * (slo + slo_per_token * in)` there, or nowhere. Else argmin
    `load * n`, n = requests there; the least recently chosen of equals, for the source goes round among them.

    Defaults as there: 1, 0 (no attention term), 0.5, 1, 1 s, 62.5 us/token. `c_att` is 1 / the context at which a
    token's attention costs as much as the rest [1/token]. The source compares the hit with what the previous turn
    sent, which is not known here: the whole prompt stands for it. The rate is the router's own estimate, not the 90th
    percentile of load over TTFT.
    """

    __slots__ = ("_c_att", "_c_lin", "_hit_ratio", "_slack", "_slo", "_slo_per_token")

    def __init__(
        self,
        *,
        c_lin: float = 1.0,
        c_att: float = 0.0,
        hit_ratio: float = 0.5,
        slack: float = 1.0,
        slo: float = 1.0,
        slo_per_token: float = 62.5e-6,
    ) -> None:
        self._c_lin = c_lin
        self._c_att = c_att
        self._hit_ratio = hit_ratio
        self._slack = slack
        self._slo = slo
        self._slo_per_token = slo_per_token

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the longest holder while it is good enough, else of the smallest product."""
        table, hits, tokens = candidates.table, candidates.hit_tokens, candidates.tokens
        load = self._load(candidates)
        longest = hits.item(hits.argmax())
        if longest > self._hit_ratio * tokens:
            holders = np.where(hits == longest, load, math.inf)
            holder = least_recent(holders, candidates)
            starts = load * table[Column.SECONDS_PER_TOKEN]
            budget = self._slack * (self._slo + self._slo_per_token * tokens)
            if starts[holder] <= budget or starts[starts.argmin()] > budget:
                return holder
        return least_recent(load * table[Column.REQUESTS], candidates)

    def _load(self, candidates: Candidates) -> Floats:
        """Work queued and the request's own: `in - miss/2` is `hit + miss/2`, as in QUEUED_QUADRATIC."""
        table, miss = candidates.table, candidates.miss_tokens
        load: Floats = table[Column.QUEUED_TOKENS] + miss
        if self._c_lin != 1.0:
            load *= self._c_lin
        if self._c_att:
            load += self._c_att * (table[Column.QUEUED_QUADRATIC] + miss * (candidates.hit_tokens + 0.5 * miss))
        return load
