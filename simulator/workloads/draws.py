"""What generators draw: lengths around a mean, and choices of which few are frequent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvroute.simulator.workloads.options import Option

Whole = NDArray[np.int64]
LONGEST = 1 << 24
"""No length is drawn beyond this: the tail of a wide spread has no end [tokens]."""

SPREAD = Option(
    "spread", 0.5, "how far lengths part from their mean: sigma of their logarithm; 0: all alike", float, most=3
)


def lengths(mean: float, spread: float, count: int, rng: np.random.Generator, least: int = 1) -> Whole:
    """Lognormal lengths of that mean, whole, at least `least` [tokens]."""
    if spread == 0:
        return np.full(count, max(least, round(mean)), np.int64)
    drawn = mean * np.exp(spread * rng.standard_normal(count) - 0.5 * spread * spread)
    whole: Whole = np.clip(np.floor(drawn + 0.5), least, LONGEST).astype(np.int64)
    return whole


def pauses(mean: float, count: int, rng: np.random.Generator) -> list[float]:
    """Exponential pauses of that mean, to the microsecond [s]."""
    drawn: list[float] = (np.floor(rng.standard_exponential(count) * (mean * 1e6) + 0.5) / 1e6).tolist()
    return drawn


class Zipf:
    """Choices 0..n-1 of which the i-th has the weight `(i+1)**-skew`."""

    def __init__(self, choices: int, skew: float) -> None:
        self.choices = choices
        weights = np.arange(1, choices + 1, dtype=np.float64) ** -skew
        self._below = np.cumsum(weights)

    def draw(self, count: int, rng: np.random.Generator) -> Whole:
        """That many choices."""
        at = rng.random(count) * self._below[-1]
        found: Whole = np.searchsorted(self._below, at, side="right").astype(np.int64)
        return np.minimum(found, self.choices - 1)
