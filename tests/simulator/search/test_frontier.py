"""The border along one axis: found where it is, and honest where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.simulator.search.frontier import RATE_STEP, fewest, greatest


@given(st.integers(1, 300))
def test_the_fewest_is_found_and_its_neighbours_are_tried(border: int) -> None:
    """The answer meets, the next below was tried and fails, the next above was tried too."""
    tried: list[int] = []

    def meets(counts: Sequence[int]) -> list[bool]:
        tried.extend(counts)
        return [count >= border for count in counts]

    found = fewest(meets, 300)
    assert found.answer == border
    assert found.monotone
    assert border == 1 or border - 1 in tried
    assert border == 300 or border + 1 in tried
    assert len(tried) == len(set(tried)) <= 25


def test_a_demand_that_nothing_meets_has_no_answer() -> None:
    """And no count beyond the limit is tried."""
    tried: list[int] = []

    def meets(counts: Sequence[int]) -> list[bool]:
        tried.extend(counts)
        return [False] * len(counts)

    assert fewest(meets, 20).answer is None
    assert max(tried) == 20


def test_a_count_that_fails_above_one_that_meets_is_told() -> None:
    """Then the answer lies above the one that fails."""
    found = fewest(lambda counts: [count == 4 or count >= 7 for count in counts], 64)
    assert not found.monotone
    assert found.answer == 7


@given(st.floats(0.05, 5000.0), st.floats(0.05, 5000.0))
def test_the_greatest_rate_is_found_from_any_guess(border: float, guess: float) -> None:
    """It meets, and a rate just above it was seen to fail."""
    found = greatest(lambda rates: [rate <= border for rate in rates], guess)
    assert found.answer is not None
    assert found.monotone
    assert border * (1 - 2 * RATE_STEP) <= found.answer <= border


@pytest.mark.parametrize(("met", "bounded"), [(True, True), (False, False)])
def test_a_rate_without_a_border_is_told(met: bool, bounded: bool) -> None:
    """Met everywhere: the answer is a lower bound. Met nowhere: there is none."""
    found = greatest(lambda rates: [met] * len(rates), 10.0)
    assert (found.answer is not None) == met
    assert found.bounded == bounded
