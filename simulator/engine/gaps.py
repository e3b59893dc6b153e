"""Times between the tokens of all requests, as a histogram of fixed relative width."""

from __future__ import annotations

import math
from bisect import bisect_right

_WIDTH = 1.01
_SMALLEST = 1e-4


def _bounds() -> list[float]:
    """Upper ends of the buckets, the last without one; by products, which are equal on every machine."""
    bounds = [_SMALLEST * _WIDTH]
    while bounds[-1] < 1e5:
        bounds.append(bounds[-1] * _WIDTH)
    return [*bounds, math.inf]


_BOUNDS = _bounds()


class Gaps:
    """Inter-token times of all requests as a histogram: bucket i counts gaps of about `LEAST * GROWTH**i` seconds."""

    LEAST = _SMALLEST
    GROWTH = _WIDTH

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[int, float] = {}

    def observe(self, first: float, last: float, steps: int, sequences: int) -> None:
        """Enter `steps` steps, whose durations grow evenly from `first` to `last` [s], of `sequences` tokens each."""
        counts = self.counts
        bucket = bisect_right(_BOUNDS, first)
        if last < _BOUNDS[bucket]:
            counts[bucket] = counts.get(bucket, 0) + steps * sequences
            return
        growth = (last - first) / (steps - 1)
        done = 0
        while done < steps:  # bucket by bucket, as many steps as are shorter than its upper end
            until = steps if last < _BOUNDS[bucket] else min(steps, math.ceil((_BOUNDS[bucket] - first) / growth))
            if until > done:
                counts[bucket] = counts.get(bucket, 0) + (until - done) * sequences
                done = until
            bucket += 1

    def quantile(self, q: float) -> float:
        """The gap that a share of `q` does not exceed, to within half a bucket [s]; NaN where there is none."""
        total = sum(self.counts[bucket] for bucket in sorted(self.counts))
        reached = 0.0
        for bucket in sorted(self.counts):
            reached += self.counts[bucket]
            if reached >= q * total:
                return _BOUNDS[bucket] / math.sqrt(_WIDTH)
        return float("nan")
