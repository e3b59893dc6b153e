"""Times between the tokens of all requests, as a histogram of fixed relative width."""

from __future__ import annotations

import math
from bisect import bisect_right

_WIDTH = 1.01
_SMALLEST = 1e-4


def _bounds() -> list[float]:
    """Upper ends of the buckets, up to about a day; by products, which are equal on every machine."""
    bounds = [_SMALLEST * _WIDTH]
    while bounds[-1] < 1e5:
        bounds.append(bounds[-1] * _WIDTH)
    return bounds


_BOUNDS = _bounds()


class Gaps:
    """Inter-token times of all requests as a histogram: bucket i counts gaps of about `LEAST * GROWTH**i` seconds."""

    LEAST = _SMALLEST
    GROWTH = _WIDTH

    __slots__ = ("_high", "_last", "_low", "counts")

    def __init__(self) -> None:
        self.counts: dict[int, float] = {}
        self._last = 0
        self._low = 0.0
        self._high = 0.0

    def observe(self, first: float, last: float, steps: int, sequences: int) -> None:
        """Enter `steps` steps, whose durations grow evenly from `first` to `last` [s], of `sequences` tokens each."""
        if self._low <= first and last < self._high:
            self.counts[self._last] += steps * sequences
            return
        self._spread(first, last, steps, sequences)

    def quantile(self, q: float) -> float:
        """The gap that a share of `q` does not exceed, to within half a bucket [s]; NaN where there is none."""
        total = sum(self.counts[bucket] for bucket in sorted(self.counts))
        reached = 0.0
        for bucket in sorted(self.counts):
            reached += self.counts[bucket]
            if reached >= q * total:
                return _BOUNDS[bucket] / math.sqrt(_WIDTH)
        return float("nan")

    def _spread(self, first: float, last: float, steps: int, sequences: int) -> None:
        """Bucket by bucket, as many steps as end below its upper end."""
        counts = self.counts
        bucket = bisect_right(_BOUNDS, first)
        done = 0
        growth = (last - first) / (steps - 1) if steps > 1 else 0.0
        while done < steps:
            until = steps
            if bucket < len(_BOUNDS) and last >= _BOUNDS[bucket]:
                until = min(steps, max(done, -int((first - _BOUNDS[bucket]) // growth) if growth > 0.0 else done))
            if until > done:
                counts[bucket] = counts.get(bucket, 0) + (until - done) * sequences
                self._last = bucket
                self._high = _BOUNDS[bucket] if bucket < len(_BOUNDS) else float("inf")
                self._low = _BOUNDS[bucket - 1] if bucket else 0.0
                done = until
            bucket += 1
