"""A histogram cheap enough for every request: a bisection, an addition, no locks (one event loop writes it)."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0)
"""Bounds of client-visible latencies [seconds]."""
SHORT_SECONDS = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.2, 1.0)
"""Bounds of what the router itself takes [seconds]."""


class Histogram:
    """Counts of values at most each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        """Upper bounds, ascending; one more bucket takes what is larger."""
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """Values at most each bound, the last being all."""
        return list(accumulate(self.counts))

    def quantile(self, q: float) -> float | None:
        """Upper bound of the bucket in which quantile q lies; None when empty or beyond the last bound."""
        running = self.cumulative()
        if running[-1] == 0:
            return None
        at = bisect_left(running, q * running[-1])
        return self.bounds[at] if at < len(self.bounds) else None
