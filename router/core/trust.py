"""How far a replica's cache estimate may be believed: set right by the engine's totals where replies tell nothing."""

from __future__ import annotations

ENOUGH_TOKENS = 8000.0
"""Prompt tokens that one comparison needs, on our side and on the engine's."""
LEAST = 0.05
"""The believed capacity never falls below this share of the real one."""


class Trust:
    """Compares predicted with counted hit rates of one replica, and says which share of its capacity to believe in.

    Rates, not tokens: how many tokens a prompt has is an estimate here, and which part of it was cached is not hurt by
    that. Others' traffic evicts what we think is there, so hits that fail to come mean that less of the cache is ours:
    the share falls with the hits, and grows back by a twentieth each time that the prediction held.
    """

    __slots__ = ("_counted", "_expected", "_predicted", "_queried", "ratio", "share")

    def __init__(self) -> None:
        self._clear()
        self.share = 1.0
        """Of the real capacity."""
        self.ratio = 1.0
        """Counted / predicted hit rate at the last comparison."""

    def _clear(self) -> None:
        self._counted = self._queried = self._predicted = self._expected = 0.0

    def predicted(self, hit_tokens: float, prompt_tokens: float) -> None:
        """A request was completed of whose prompt so much was believed to be cached."""
        self._predicted += hit_tokens
        self._expected += prompt_tokens

    def counted(self, hit_tokens: float, prompt_tokens: float) -> bool:
        """The engine's own counters grew by so much. True when `share` changed."""
        self._counted += hit_tokens
        self._queried += prompt_tokens
        if self._expected < ENOUGH_TOKENS or self._queried < ENOUGH_TOKENS:
            return False
        counted, predicted = self._counted / self._queried, self._predicted / self._expected
        self._clear()
        self.ratio = counted / predicted if predicted > 0.0 else 1.0
        old = self.share
        if self.ratio < 0.9 and predicted > 0.05:
            self.share = max(LEAST, self.share * max(self.ratio, 0.5))
        else:
            self.share = min(1.0, self.share * 1.05)
        return self.share != old
