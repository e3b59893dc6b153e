"""How sure a mean over a few seeds is, and whether a difference is shown by it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from kvroute.simulator.reports.across import interval


class Estimate(msgspec.Struct, frozen=True):
    """A mean over seeds; the true one lies within `mean +- half_width` with 95 % confidence."""

    mean: float
    half_width: float | None
    """None where one seed alone says nothing of the spread."""
    count: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95 % half width of the values that are numbers; None where there are none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    found = interval(known)
    return Estimate(found.mean, found.half, len(known))


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
