"""`mooncake-ttft`: the smallest predicted TTFT, as Mooncake's conductor (arXiv 2407.00079, algorithm 1)."""

from __future__ import annotations

import math

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Floats, Request
from kvroute.scorers.ties import least_recent


class MooncakeTtft:
    """argmin `queue + prefill(in, hit)` [seconds], at each replica's current rate.

    Where KV can be moved between replicas, `transfer` is its price [seconds/token], and each replica's TTFT is the
    smaller of that and `queue + (longest hit - hit) * transfer + prefill(in, longest hit)`. Its default is inf: nothing
    here moves KV for it. The paper takes the transfer when the longest hit exceeds the local one by a factor that it
    does not state; here the times decide. Its refusal of requests that would miss their SLO is not a choice of replica.
    Equals: the least recently chosen; the source says nothing.
    """

    __slots__ = ("_transfer",)

    def __init__(self, *, transfer: float = math.inf) -> None:
        if not transfer >= 0.0:
            raise ValueError(f"transfer must be at least 0 seconds per token, not {transfer}")
        self._transfer = transfer

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the soonest first token."""
        prefill = candidates.prefill_seconds
        if candidates.fetch_seconds is not None:
            prefill = prefill + candidates.fetch_seconds
        if self._transfer < math.inf:
            prefill = np.minimum(prefill, self._moved(candidates))
        return least_recent(prefill + candidates.queued_seconds, candidates)

    def _moved(self, candidates: Candidates) -> Floats:
        """Seconds to bring what the best holder has and compute the rest."""
        table, hits = candidates.table, candidates.hit_tokens
        longest = hits.item(hits.argmax())
        miss = max(candidates.tokens - longest, 1.0)
        seconds: Floats = (longest - hits) * self._transfer
        seconds += miss * table[Column.SECONDS_PER_TOKEN]
        seconds += miss * (longest + 0.5 * miss) * table[Column.SECONDS_PER_QUADRATIC]
        return seconds
