"""The retry budget: once body bytes were sent, a request may try one other endpoint, within a share of all."""

from __future__ import annotations


class RetryBudget:
    """A token bucket filled by requests. Without it, retries of a fleet in trouble are the traffic that sinks it."""

    __slots__ = ("_most", "_share", "_tokens", "refused", "spent")

    def __init__(self, share: float = 0.1, start: float = 64.0, most: float = 1024.0) -> None:
        """`share` of a try is earned by each request, from `start` tries up to `most`.

        A replica that dies takes all its requests with it at once, some hundreds, so the bucket is that deep; what a
        fleet in lasting trouble gets is the share.
        """
        self._share = share
        self._most = most
        self._tokens = start if share else 0.0
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
