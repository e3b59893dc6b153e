"""The retry budget: once body bytes were sent, a request may try one other endpoint, within a share of all."""

from __future__ import annotations


class RetryBudget:
    """A token bucket filled by requests. Without it, retries of a fleet in trouble are the traffic that sinks it."""

    __slots__ = ("_most", "_share", "_tokens", "refused", "spent")

    def __init__(self, share: float = 0.1, burst: float = 10.0) -> None:
        self._share = share
        self._most = burst
        self._tokens = burst
        self.spent = 0
        """Retries granted."""
        self.refused = 0
        """Retries refused because the budget was used up."""

    def request(self) -> None:
        """A request was accepted: the budget grows by its share."""
        tokens = self._tokens + self._share
        self._tokens = tokens if tokens < self._most else self._most

    def spend(self) -> bool:
        """Take one retry; False when the budget is used up."""
        if self._tokens < 1.0:
            self.refused += 1
            return False
        self._tokens -= 1.0
        self.spent += 1
        return True
