"""`affinity-gate`: holders of the prefix unless they are much later, then the least tokens, as the llm-d router now."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Request
from kvroute.scorers.ties import least_recent


class AffinityGate:
    """Sticky are the replicas with `hit / in >= affinity`, unless the gate opens: `min(P) of the sticky - min(P) of the
    others > max_penalty * throughput`. argmin P among the sticky; among all where none is sticky or the gate is open.

    P = uncached prompt tokens in flight there: sent, and without a first output yet [tokens]. Source: llm-d's
    prefix-cache-affinity-filter with its token-load-scorer; 0.8, 18 s, 15,928 tokens/s (a 32B model on two H100).
    `max_penalty=0` never opens the gate, as there. `own=True` adds the request's own miss to P when it comes to the
    argmin, as newer releases do. Equals take turns: the least recently chosen.
    """

    __slots__ = ("_affinity", "_own", "_penalty_tokens")

    def __init__(
        self, *, affinity: float = 0.8, max_penalty: float = 18.0, throughput: float = 15_928.0, own: bool = False
    ) -> None:
        if not 0.0 <= affinity <= 1.0:
            raise ValueError(f"affinity must be from 0 to 1, not {affinity}")
        if not max_penalty >= 0.0:
            raise ValueError(f"max_penalty must be at least 0 seconds, not {max_penalty}")
        if not throughput > 0.0:
            raise ValueError(f"throughput must be above 0 tokens/s, not {throughput}")
        self._affinity = affinity
        self._penalty_tokens = max_penalty * throughput if max_penalty else float("inf")
        self._own = own

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the fewest tokens in flight among those that the gate lets through."""
        queued = candidates.table[Column.QUEUED_TOKENS]
        load = queued + candidates.miss_tokens if self._own else queued
        sticky = candidates.hit_tokens / max(candidates.tokens, 1) >= self._affinity
        if sticky[sticky.argmax()]:
            inside, outside = np.where(sticky, queued, np.inf), np.where(sticky, np.inf, queued)
            if not inside[inside.argmin()] - outside[outside.argmin()] > self._penalty_tokens:
                return least_recent(np.where(sticky, load, np.inf), candidates)
        return least_recent(load, candidates)
