"""How sure a mean over a few seeds is, by Student's t, and whether a difference is shown by it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

_T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
"""Two-sided 95 % quantiles for 1 to 30 degrees of freedom."""
_Z95 = 1.959963984540054


class Estimate(msgspec.Struct, frozen=True):
    """A mean over seeds; the true one lies within `mean +- half_width` with 95 % confidence."""

    mean: float
    half_width: float | None
    """None where one seed alone says nothing of the spread."""
    count: int


def t95(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t; above 30 degrees by the Cornish-Fisher series (error below 1e-4)."""
    if degrees < 1:
        raise ValueError("a confidence interval needs two values at least")
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z = _Z95
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95 % half width of the values that are numbers; None where there are none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    count = len(known)
    mean = math.fsum(known) / count
    if count == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in known) / (count - 1)
    return Estimate(mean, t95(count - 1) * math.sqrt(variance / count), count)


def paired(values: Sequence[float], reference: Sequence[float]) -> Estimate | None:
    """Mean of `values - reference`, pair by pair: with common random numbers most of the spread cancels out.

    A pair of which one is not a number is left out; None where no pair is left.
    """
    return estimate([value - other for value, other in zip(values, reference, strict=True)])


def shown(difference: Estimate | None) -> int:
    """Whether a difference is shown: -1 smaller, 1 greater, 0 neither (zero lies within the interval, or one seed)."""
    if difference is None or difference.half_width is None or abs(difference.mean) <= difference.half_width:
        return 0
    return -1 if difference.mean < 0 else 1
