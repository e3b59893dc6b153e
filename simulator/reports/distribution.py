"""A distribution in six numbers, and quantiles that are the same to the last bit on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from kvroute.simulator.runs.outcome import Gaps


class Distribution(msgspec.Struct, frozen=True):
    """What is said of a latency; all in seconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Quantiles:
    """Values sorted once. Quantiles lie between the two nearest values, in proportion."""

    __slots__ = ("_mean", "_values")

    def __init__(self, values: npt.NDArray[np.float64]) -> None:
        """`values` in any order; NaN is left out."""
        kept = np.sort(values[~np.isnan(values)])
        self._values = kept
        self._mean = math.fsum(kept.tolist()) / len(kept) if len(kept) else math.nan

    def __len__(self) -> int:
        return len(self._values)

    def at(self, share: float) -> float:
        """The value that a share of all does not exceed; NaN of none.

        In Python's own arithmetic, for numpy's interpolation differs in the last bit between processors.
        """
        values = self._values
        if not len(values):
            return math.nan
        place = share * (len(values) - 1)
        below = int(place)
        above = min(below + 1, len(values) - 1)
        low, high = float(values[below]), float(values[above])
        return low + (high - low) * (place - below)

    @property
    def mean(self) -> float:
        """NaN of none."""
        return self._mean

    def distribution(self) -> Distribution | None:
        """The six numbers; None where there are no values."""
        if not len(self):
            return None
        at = self.at
        return Distribution(self._mean, at(0.5), at(0.9), at(0.95), at(0.99), at(1.0))

    def curve(self, points: int) -> list[tuple[float, float]]:
        """(value, share of all that does not exceed it) at evenly spaced shares, the tail in finer ones."""
        if not len(self):
            return []
        body = [0.99 * place / (points - 1) for place in range(points)]
        tail = [1.0 - 0.01 * (1.0 - place / 49.0) for place in range(1, 50)]
        return [(self.at(share), share) for share in body + tail]


class GapQuantiles:
    """The same of the inter-token times, from their histogram: right to half a bucket, 0.5 %."""

    __slots__ = ("_cumulated", "_total", "_values")

    def __init__(self, gaps: Gaps) -> None:
        buckets = [(bucket, gaps.counts[bucket]) for bucket in sorted(gaps.counts) if gaps.counts[bucket] > 0]
        self._values = [gaps.LEAST * gaps.GROWTH**bucket for bucket, _ in buckets]
        self._cumulated: list[float] = []
        total = 0.0
        for _, count in buckets:
            total += count
            self._cumulated.append(total)
        self._total = total

    def at(self, share: float) -> float:
        """The value that a share of all does not exceed; NaN of none."""
        for value, cumulated in zip(self._values, self._cumulated, strict=True):
            if cumulated >= share * self._total:
                return value
        return self._values[-1] if self._values else math.nan

    @property
    def mean(self) -> float:
        """NaN of none."""
        if not self._values:
            return math.nan
        before: Sequence[float] = [0.0, *self._cumulated]
        weighted = [
            value * (upto - past) for value, upto, past in zip(self._values, self._cumulated, before, strict=False)
        ]
        return math.fsum(weighted) / self._total

    def distribution(self) -> Distribution | None:
        """The six numbers; None where there are no gaps."""
        if not self._values:
            return None
        at = self.at
        return Distribution(self.mean, at(0.5), at(0.9), at(0.95), at(0.99), at(1.0))
