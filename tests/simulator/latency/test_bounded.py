"""Least squares within bounds."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.simulator.latency.bounded import bounded, robust


def test_inside_the_bounds_it_is_least_squares() -> None:
    """Where no bound is met the answer is the usual one, however different the columns' scales."""
    rng = np.random.default_rng(3)
    rows = rng.random((30, 3)) * np.array([1.0, 1e6, 1e-6])
    truth = np.array([2.0, 3e-6, 4e6])
    found = bounded(rows, rows @ truth, np.zeros(3), np.full(3, math.inf))
    assert np.allclose(found, truth, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_no_point_within_the_bounds_is_better(seed: int) -> None:
    """Random points within the bounds, and the neighbours of the answer, are never closer."""
    rng = np.random.default_rng(seed)
    rows, values = rng.normal(size=(12, 4)), rng.normal(size=12)
    low, high = np.array([0.0, -0.1, 0.2, 0.0]), np.array([math.inf, 0.1, 0.3, 1.0])
    found = bounded(rows, values, low, high)
    assert np.all(found >= low - 1e-12)
    assert np.all(found <= high + 1e-12)
    least = float(np.sum((rows @ found - values) ** 2))
    top = np.where(np.isfinite(high), high, 3.0)
    for others in (
        low + (top - low) * rng.random((50, 4)),
        np.clip(found + 0.01 * rng.normal(size=(50, 4)), low, high),
    ):
        assert np.min(np.sum((others @ rows.T - values) ** 2, axis=1)) >= least - 1e-7


def test_a_few_odd_rows_do_not_sway_it() -> None:
    """A tenth of the rows being tripled moves a robust fit by a little, least squares by much."""
    rng = np.random.default_rng(4)
    rows = 1.0 + rng.random((40, 2))
    values = rows @ np.array([1.0, 2.0])
    values[::10] *= 3
    free = (np.zeros(2), np.full(2, math.inf))
    assert np.allclose(robust(rows, values, *free), [1.0, 2.0], atol=0.1)
    assert not np.allclose(bounded(rows, values, *free), [1.0, 2.0], atol=0.3)
