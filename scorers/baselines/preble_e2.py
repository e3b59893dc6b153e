"""`preble-e2`: exploit the prefix or explore for load, Preble's E2 scheduling (arXiv 2407.00023)."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.baselines.window import Window
from kvroute.scorers.contract import Candidates, Column, Request
from kvroute.scorers.ties import least_recent

_PER_TOKEN, _PER_QUADRATIC = Column.SECONDS_PER_TOKEN, Column.SECONDS_PER_QUADRATIC


class PrebleE2:
    """With the longest hit of all: if `hit > miss`, argmin `L + M` among its holders; else argmin `L + M` of all.

    L = seconds of work given to the replica in the last `window` seconds (180, as there): each request's prefill, and
    its decode as mean output length * step time when it was sent. M = seconds to compute again what the request would
    evict: `max(cached + miss - capacity, 0) * s/token`. Preble weighs each evicted node by the requests that shared it
    in the window, which no column tells; here each evicted token counts once. The paper's own term for the request's
    prefill is left out of E2's costs, as in its code, and so is the later splitting of overloaded prefixes. Equals:
    the least recently chosen; the source says nothing.
    """

    __slots__ = ("_window",)

    def __init__(self, *, window: float = 180.0) -> None:
        if not window > 0.0:
            raise ValueError(f"window must be above 0 seconds, not {window}")
        self._window = Window(window)

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the cheapest holder, or of the cheapest replica."""
        table, hits = candidates.table, candidates.hit_tokens
        costs = table[Column.CACHED_TOKENS] + candidates.miss_tokens
        costs -= table[Column.CAPACITY_TOKENS]
        np.maximum(costs, 0.0, out=costs)
        costs *= table[Column.SECONDS_PER_TOKEN]
        costs += self._window.seconds(candidates.names, now)
        longest = hits.item(hits.argmax())
        if longest > candidates.tokens - longest:
            costs = np.where(hits == longest, costs, np.inf)
        return least_recent(costs, candidates)

    def on_decided(self, request: Request, candidates: Candidates, index: int, now: float) -> None:
        """The replica was given the request's work: one column is read, for the others' prefill is of no interest."""
        column = candidates.table[:, index].tolist()
        hit = candidates.hit_tokens.item(index)
        miss = max(candidates.tokens - hit, 1.0)
        prefill = miss * (column[_PER_TOKEN] + column[_PER_QUADRATIC] * (hit + 0.5 * miss))
        decode = column[Column.OUTPUT_TOKENS] * column[Column.STEP_SECONDS]
        self._window.add(candidates.names[index], prefill + decode, now)
