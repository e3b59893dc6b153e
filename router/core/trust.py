"""How far a replica's cache estimate may be believed: set right by the engine's totals where replies tell nothing."""

from __future__ import annotations

ENOUGH_TOKENS = 2000.0
"""Predicted cached tokens that one comparison needs."""
LEAST = 0.05
"""The believed capacity never falls below this share of the real one."""


class Trust:
    """Compares predicted with counted cached tokens of one replica, and says which share of its capacity to believe in.

    Others' traffic evicts what we think is there, so hits that fail to come mean that less of the cache is ours: the
    share falls with the hits, and grows back by a twentieth each time that the prediction held.
    """

    __slots__ = ("_counted", "_predicted", "ratio", "share")

    def __init__(self) -> None:
        self._counted = 0.0
        self._predicted = 0.0
        self.share = 1.0
        """Of the real capacity."""
        self.ratio = 1.0
        """Counted / predicted cached tokens at the last comparison."""

    def predicted(self, tokens: float) -> None:
        """A request was completed that was believed to hit `tokens`."""
        self._predicted += tokens

    def counted(self, tokens: float) -> bool:
        """The engine's own counter of cached prompt tokens grew by `tokens`. True when `share` changed."""
        self._counted += tokens
        if self._predicted < ENOUGH_TOKENS:
            return False
        self.ratio = self._counted / self._predicted
        self._counted = self._predicted = 0.0
        old = self.share
        if self.ratio < 0.9:
            self.share = max(LEAST, self.share * max(self.ratio, 0.5))
        else:
            self.share = min(1.0, self.share * 1.05)
        return self.share != old
