"""How far a replica's cache estimate may be believed: set right by the engine's totals where replies tell nothing."""

from __future__ import annotations

import math

ENOUGH_TOKENS = 8000.0
"""Prompt tokens that one comparison needs, on our side and on the engine's."""
LEAST = 0.05
"""The believed capacity never falls below this share of the real one."""


class Trust:
    """Compares predicted with counted hit rates of one replica, and says which share of its capacity to believe in.

    Rates, not tokens: how many tokens a prompt has is an estimate here, and which part of it was cached is not hurt by
    that. Others' traffic evicts what we think is there, so hits that fail to come mean that less of the cache is ours:
    the share falls with the hits, and grows back by a twentieth each time that the prediction held.

    For each completed request either `told` or `predicted` is called, once: `told` when its reply says how many of its
    prompt tokens were cached (which the occupancy hears, and is better than any total), `predicted` when it does not.
    `counted` is called once a scrape. It compares when both sides have enough tokens, and only if fewer than half of
    the requests since the last comparison told; where half or more did, the share grows back instead. So `share` holds
    at any time and may always be applied, whatever mix of replies a replica gives.
    """

    __slots__ = ("_counted", "_expected", "_predicted", "_queried", "_silent", "_told", "ratio", "share")

    def __init__(self) -> None:
        self._clear()
        self.share = 1.0
        """Of the real capacity."""
        self.ratio = 1.0
        """Counted / predicted hit rate at the last comparison."""

    def _clear(self) -> None:
        self._counted = self._queried = self._predicted = self._expected = 0.0
        self._told = self._silent = 0

    def told(self) -> None:
        """A request was completed whose reply says how many of its prompt tokens were cached."""
        self._told += 1

    def predicted(self, hit_tokens: float, prompt_tokens: float) -> None:
        """A request was completed whose reply says nothing of it; so much of its prompt was believed to be cached."""
        self._silent += 1
        if _sound(hit_tokens, prompt_tokens):
            self._predicted += hit_tokens
            self._expected += prompt_tokens

    def counted(self, hit_tokens: float, prompt_tokens: float) -> bool:
        """The engine's own counters grew by so much. True when `share` changed."""
        if not _sound(hit_tokens, prompt_tokens):
            return False
        self._counted += hit_tokens
        self._queried += prompt_tokens
        if self._queried < ENOUGH_TOKENS:
            return False
        if self._told and self._told >= self._silent:
            self._clear()
            return self._grow()
        if self._expected < ENOUGH_TOKENS:
            return False
        counted, predicted = self._counted / self._queried, self._predicted / self._expected
        self._clear()
        self.ratio = counted / predicted if predicted > 0.0 else 1.0
        if self.ratio >= 0.9 or predicted <= 0.05:
            return self._grow()
        old = self.share
        self.share = max(LEAST, old * max(self.ratio, 0.5))
        return self.share != old

    def _grow(self) -> bool:
        """Believe in a twentieth more. True when there was more to believe in."""
        old = self.share
        self.share = min(1.0, old * 1.05)
        return self.share != old


def _sound(hit_tokens: float, prompt_tokens: float) -> bool:
    """Whether these are counts of tokens: finite, and not below zero, as after a restart that nobody noticed."""
    return math.isfinite(hit_tokens + prompt_tokens) and hit_tokens >= 0.0 and prompt_tokens >= 0.0
