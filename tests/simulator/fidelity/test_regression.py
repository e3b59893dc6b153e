"""Coefficients come back from exact rows, odd rows do not sway them, and doubt is told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kvroute.simulator.fidelity.regression import Prior, regress, solve

UNTOLD = Prior(0.0, math.inf)


def rows(count: int = 200, seed: int = 0) -> list[tuple[float, ...]]:
    """Factors of three coefficients."""
    rng = np.random.default_rng(seed)
    return [
        (1.0, float(a), float(b)) for a, b in zip(rng.uniform(1, 50, count), rng.uniform(0, 2e4, count), strict=True)
    ]


def test_exact_rows_give_exact_coefficients() -> None:
    """Without noise the truth comes back."""
    given = rows()
    values = [0.01 * a + 1e-4 * b + 1e-7 * c for a, b, c in given]
    found = regress(given, values, [1.0] * len(given), [UNTOLD] * 3)
    assert found.values == pytest.approx((0.01, 1e-4, 1e-7), rel=1e-6)


def test_odd_rows_do_not_sway() -> None:
    """One row in ten that took ten times as long moves nothing by more than 2 %."""
    given = rows()
    values = [(0.01 * a + 1e-4 * b + 1e-7 * c) * (10.0 if i % 10 == 0 else 1.0) for i, (a, b, c) in enumerate(given)]
    found = regress(given, values, [1.0] * len(given), [UNTOLD] * 3)
    assert found.values == pytest.approx((0.01, 1e-4, 1e-7), rel=0.02)


def test_nothing_falls_below_zero() -> None:
    """A coefficient that would be negative is zero, and the others make the best of it."""
    given = rows()
    found = regress(given, [0.02 - 1e-4 * b for _, b, _ in given], [1.0] * len(given), [UNTOLD] * 3)
    assert min(found.values) == 0.0
    assert found.values[1] == 0.0


def test_errors_are_those_of_repeated_draws() -> None:
    """The standard error is what repeated noise makes of the estimate."""
    given = rows()
    draws = []
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(0.0, 1e-3, len(given))
        values = [0.01 + 1e-4 * b + 1e-7 * c + float(e) for (_, b, c), e in zip(given, noise, strict=True)]
        draws.append(regress(given, values, [1.0] * len(given), [UNTOLD] * 3))
    for k in range(3):
        spread = float(np.std([draw.values[k] for draw in draws]))
        assert draws[0].errors[k] == pytest.approx(spread, rel=0.35)


def test_what_no_row_tells_comes_from_the_prior() -> None:
    """A factor that is zero in all rows has its prior's value and an infinite error."""
    given = [(a, b, 0.0) for a, b, _ in rows()]
    values = [0.01 + 1e-4 * b for _, b, _ in given]
    found = regress(given, values, [1.0] * len(given), [UNTOLD, UNTOLD, Prior(3e-7, 1e-7)])
    assert found.values[2] == pytest.approx(3e-7)
    assert found.errors[2] == math.inf
    assert found.values[:2] == pytest.approx((0.01, 1e-4))


def test_known_to_be_zero_stays_zero() -> None:
    """A prior without error switches a coefficient off."""
    given = rows()
    values = [0.01 + 1e-4 * b + 1e-7 * c for _, b, c in given]
    assert regress(given, values, [1.0] * len(given), [UNTOLD, UNTOLD, Prior(0.0, 0.0)]).values[2] == 0.0


def test_a_system_without_one_answer_has_none() -> None:
    """Equal rows cannot be told apart."""
    assert solve([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0]) is None
