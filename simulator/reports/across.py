"""The same figure over several seeds: its mean and confidence interval, without a statistics library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
"""Two-sided 95 % quantiles for 1 to 30 degrees of freedom."""
_Z95 = 1.959963984540054


class Interval(NamedTuple):
    """A mean and half the width of its 95 % confidence interval; None: one seed tells nothing of that."""

    mean: float
    half: float | None


def t95(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t; above 30 degrees by the Cornish-Fisher series (error below 1e-4)."""
    if degrees < 1:
        raise ValueError("a confidence interval needs two values at least")
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z = _Z95
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def interval(values: Sequence[float]) -> Interval:
    """Over seeds, by Student's t.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Interval(mean, t95(len(values) - 1) * math.sqrt(variance / len(values)))
