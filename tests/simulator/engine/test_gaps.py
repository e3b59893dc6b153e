"""Inter-token times as a histogram."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.simulator.engine.gaps import Gaps


@given(st.floats(1e-3, 1.0), st.floats(0.0, 1e-3), st.integers(1, 300), st.integers(1, 50))
def test_gaps_of_a_span_are_those_of_its_steps(first: float, slope: float, steps: int, sequences: int) -> None:
    """Spread over buckets at once or one by one: the same counts but for steps on a bucket's edge."""
    spread, single = Gaps(), Gaps()
    spread.observe(first, first + slope * (steps - 1), steps, sequences)
    for step in range(steps):
        single.observe(first + slope * step, first + slope * step, 1, sequences)
    assert sum(spread.counts.values()) == steps * sequences
    behind = 0.0
    for bucket in range(max([*spread.counts, *single.counts]) + 1):
        behind += spread.counts.get(bucket, 0) - single.counts.get(bucket, 0)
        assert abs(behind) <= sequences


def test_quantiles_of_gaps() -> None:
    """To within a bucket's width; none where there is no gap."""
    gaps = Gaps()
    assert math.isnan(gaps.quantile(0.5))
    for gap, weight in ((0.01, 90), (0.1, 10)):
        gaps.observe(gap, gap, 1, weight)
    assert gaps.quantile(0.5) == pytest.approx(0.01, rel=0.01)
    assert gaps.quantile(0.99) == pytest.approx(0.1, rel=0.01)
