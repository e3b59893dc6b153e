"""`recent-blocks`: missed, active and lately missed blocks, as AMD Infera's kv-aware policy."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Request
from kvroute.scorers.ties import least_recent

_RESCALE_AT = 1e60
"""The growing unit of `recent` is brought back to 1 here: after some 4,500 picks at the default decay."""
_FORGOTTEN = 1e-6
"""What is left of a replica's `recent` when it is dropped [blocks]."""


class RecentBlocks:
    """argmin `weight * (blocks - hit_blocks) + active + recent` [blocks].

    blocks = full blocks of the prompt, active = distinct blocks of running requests (ACTIVE_TOKENS / block tokens),
    recent = blocks that earlier picks missed there, of which every later pick, wherever it goes, leaves `decay`.
    Without it nothing is in flight when requests come one after another, and one of two idle replicas got all 448 of
    a trace. Weight 1 (a pool of one role) and decay 0.97 as there. Equals: the least active, then the least recently
    chosen.
    """

    __slots__ = ("_decay", "_recent", "_unit", "_weight")

    def __init__(self, *, weight: float = 1.0, decay: float = 0.97) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"decay must be between 0 and 1, not {decay}")
        self._weight = weight
        self._decay = decay
        self._unit = 1.0
        self._recent: dict[str, float] = {}  # in `_unit`s, which grow instead of all values shrinking

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the fewest blocks."""
        block = request.block_tokens
        active = candidates.table[Column.ACTIVE_TOKENS] / block
        known = self._recent.get
        costs = np.array([known(name, 0.0) for name in candidates.names])
        costs /= self._unit
        costs += active
        costs += self._weight * np.maximum(request.tokens // block - candidates.hit_tokens / block, 0.0)
        equal = costs == costs[costs.argmin()]
        return least_recent(np.where(equal, active, np.inf), candidates)

    def on_decided(self, request: Request, candidates: Candidates, index: int, now: float) -> None:
        """The pick is remembered with the blocks it missed, and counts for more than those before."""
        self._unit /= self._decay
        block = request.block_tokens
        missed = request.tokens // block - candidates.hit_tokens.item(index) / block
        if missed > 0.0:
            name = candidates.names[index]
            self._recent[name] = self._recent.get(name, 0.0) + missed * self._unit
        if self._unit > _RESCALE_AT:
            self._rescale()

    def _rescale(self) -> None:
        """Replicas that are gone end here: what is no longer picked decays to nothing."""
        left = {name: value / self._unit for name, value in self._recent.items()}
        self._recent = {name: value for name, value in left.items() if value > _FORGOTTEN}
        self._unit = 1.0
