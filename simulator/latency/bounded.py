"""Least squares within bounds that a few odd rows cannot sway: for fits of a handful of coefficients."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
SLACK = 1e-12
"""By which a bound may be missed, in units of the column's length; rounding."""


def bounded(rows: Matrix, values: Vector, low: Vector, high: Vector) -> Vector:
    """The x within [low, high] with the least sum of (rows @ x - values)^2.

    Every choice of which coefficients lie on a bound is tried, so it is exact; meant for at most eight.
    """
    scale = np.maximum(np.sqrt((rows * rows).sum(axis=0)), 1e-300)
    scaled, low, high = rows / scale, low * scale, high * scale
    gram, right = scaled.T @ scaled, scaled.T @ values
    gram = gram + 1e-10 * np.eye(len(right))
    kinds = [(None, a, b) if math.isfinite(b) else (None, a) for a, b in zip(low, high, strict=True)]
    best, least = np.array(low), math.inf
    for choice in itertools.product(*kinds):
        x = _solve(gram, right, choice)
        if x is None or np.any(x < low - SLACK) or np.any(x > high + SLACK):
            continue
        cost = float(x @ gram @ x - 2 * right @ x)
        if cost < least:
            best, least = x, cost
    return np.asarray(np.clip(best, low, high) / scale)


def robust(rows: Matrix, values: Vector, low: Vector, high: Vector, *, passes: int = 6, least: float = 0.02) -> Vector:
    """The same, residuals beyond 1.5 of their median (or beyond `least`) weighing by their size, not its square."""
    weights = np.ones(len(values))
    x = np.array(low)
    for _ in range(passes):
        x = bounded(rows * weights[:, None], values * weights, low, high)
        residuals = np.abs(rows @ x - values)
        knee = max(least, 1.5 * float(np.median(residuals)))
        weights = np.sqrt(np.where(residuals <= knee, 1.0, knee / np.maximum(residuals, 1e-12)))
    return x


def _solve(gram: Matrix, right: Vector, choice: tuple[float | None, ...]) -> Vector | None:
    x = np.array([0.0 if bound is None else bound for bound in choice])
    free = [index for index, bound in enumerate(choice) if bound is None]
    if free:
        rest = right[free] - gram[free] @ x
        try:
            x[free] = np.linalg.solve(gram[np.ix_(free, free)], rest)
        except np.linalg.LinAlgError:
            return None
    return x
