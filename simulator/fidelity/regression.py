"""Least squares for the five coefficients of a step: none below zero, odd intervals held back, honest about doubt.

Sums are exact (`fsum`) and the 5 x 5 systems are solved here, so that a fit is the same to the last bit everywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec

Row = tuple[float, ...]
PASSES = 12
"""Rounds of reweighting."""
KNEE = 1.5
"""Residuals beyond that many of their spread weigh by their size, not its square (Huber)."""


class Prior(msgspec.Struct, frozen=True):
    """What is thought of one coefficient before it is measured."""

    value: float
    error: float
    """Its standard error; inf: nothing is thought; 0: it is known, and 0."""


class Estimate(msgspec.Struct, frozen=True):
    """Coefficients as fitted."""

    values: tuple[float, ...]
    errors: tuple[float, ...]
    """Standard errors, of the data alone: large where the data do not tell."""
    spread: float
    """Of the residuals, for a row of weight 1."""
    rows: int


def regress(
    rows: Sequence[Row], values: Sequence[float], weights: Sequence[float], priors: Sequence[Prior]
) -> Estimate:
    """The coefficients >= 0 that explain `values` as `rows` times them, robustly.

    Args:
        rows: the factors, one row a measurement.
        values: what was measured.
        weights: 1 / variance of each measurement, up to a common factor.
        priors: one a coefficient; they count as one measurement each.
    """
    scale = [max((abs(row[k]) for row in rows), default=0.0) or 1.0 for k in range(len(priors))]
    scaled = [tuple(x / s for x, s in zip(row, scale, strict=True)) for row in rows]
    now = list(weights)
    found = [0.0] * len(priors)
    spread = 0.0
    for _ in range(PASSES):
        gram, right = _normal(scaled, values, now)
        soft, pull = _with_priors(gram, right, priors, scale, spread)
        found = _bounded(soft, pull)
        residuals = [
            (value - _dot(row, found)) * math.sqrt(weight)
            for row, value, weight in zip(scaled, values, weights, strict=True)
        ]
        spread = max(1.4826 * _median([abs(r) for r in residuals]), 1e-12)
        now = [
            weight * min(1.0, KNEE * spread / max(abs(r), 1e-300)) for weight, r in zip(weights, residuals, strict=True)
        ]
    gram, _ = _normal(scaled, values, now)
    errors = _errors(gram, spread)
    return Estimate(
        tuple(x / s for x, s in zip(found, scale, strict=True)),
        tuple(e / s for e, s in zip(errors, scale, strict=True)),
        spread,
        len(rows),
    )


def _normal(
    rows: Sequence[Row], values: Sequence[float], weights: Sequence[float]
) -> tuple[list[list[float]], list[float]]:
    count = len(rows[0]) if rows else 0
    gram = [[0.0] * count for _ in range(count)]
    for a in range(count):
        for b in range(a, count):
            total = math.fsum(row[a] * row[b] * weight for row, weight in zip(rows, weights, strict=True))
            gram[a][b] = gram[b][a] = total
    right = [
        math.fsum(row[a] * value * weight for row, value, weight in zip(rows, values, weights, strict=True))
        for a in range(count)
    ]
    return gram, right


def _with_priors(
    gram: list[list[float]], right: list[float], priors: Sequence[Prior], scale: Sequence[float], spread: float
) -> tuple[list[list[float]], list[float]]:
    """Add each prior as a measurement, in units of the residuals' variance (none in the first pass: it is unknown)."""
    soft, pull = [list(row) for row in gram], list(right)
    for k, prior in enumerate(priors):
        if prior.error == 0.0:
            soft[k] = [0.0] * len(priors)
            for row in soft:
                row[k] = 0.0
            pull[k] = 0.0
        elif math.isfinite(prior.error):
            met = gram[k][k] > 0.0  # a factor that no row has is its prior's, however sure the rows are of the others
            weight = (spread / (prior.error * scale[k])) ** 2 if met else max(gram[a][a] for a in range(len(priors)))
            soft[k][k] += weight
            pull[k] += weight * prior.value * scale[k]
    return soft, pull


def _bounded(gram: list[list[float]], right: list[float]) -> list[float]:
    """The minimum of x'Gx/2 - r'x over x >= 0: every choice of what is zero is tried."""
    count = len(right)
    best, least = [0.0] * count, 0.0
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            x = solve([[gram[a][b] for b in chosen] for a in chosen], [right[a] for a in chosen])
            if x is None or min(x) < 0.0:
                continue
            cost = -math.fsum(right[a] * value for a, value in zip(chosen, x, strict=True))
            if cost < least:
                least = cost
                best = [0.0] * count
                for a, value in zip(chosen, x, strict=True):
                    best[a] = value
    return best


def solve(gram: list[list[float]], right: list[float]) -> list[float] | None:
    """x with gram x = right, by elimination; None where it has no one answer."""
    count = len(right)
    rows = [[*line, value] for line, value in zip(gram, right, strict=True)]
    diagonal = max(abs(gram[k][k]) for k in range(count))
    for k in range(count):
        pivot = max(range(k, count), key=lambda r: abs(rows[r][k]))
        if abs(rows[pivot][k]) <= 1e-13 * diagonal:
            return None
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for r in range(k + 1, count):
            factor = rows[r][k] / rows[k][k]
            if factor:
                rows[r] = [x - factor * y for x, y in zip(rows[r], rows[k], strict=True)]
    found = [0.0] * count
    for k in reversed(range(count)):
        rest = math.fsum(rows[k][b] * found[b] for b in range(k + 1, count))
        found[k] = (rows[k][count] - rest) / rows[k][k]
    return found


def _errors(gram: list[list[float]], spread: float) -> list[float]:
    """Roots of the diagonal of the inverse; inf where a coefficient met nothing, or cannot be told from others."""
    met = [k for k in range(len(gram)) if gram[k][k] > 0.0]
    inner = [[gram[a][b] for b in met] for a in met]
    errors = [math.inf] * len(gram)
    for place, k in enumerate(met):
        column = solve(inner, [1.0 if p == place else 0.0 for p in range(len(met))])
        if column is not None and column[place] > 0.0:
            errors[k] = spread * math.sqrt(column[place])
    return errors


def _dot(row: Sequence[float], x: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(row, x, strict=True))


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    count = len(ordered)
    if not count:
        return 0.0
    return 0.5 * (ordered[(count - 1) // 2] + ordered[count // 2])
