"""Bytes per token are learned per model, within bounds, and no odd prompt moves them far."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.knowledge.density import LEAST, MOST, PRIOR, Density


def test_the_prior_holds_until_something_is_known() -> None:
    """An unknown model has four bytes a token."""
    assert Density().bytes_per_token("m") == PRIOR


@pytest.mark.parametrize("true", [1.5, 3.0, 6.0])
def test_it_finds_the_model_s_own_ratio(true: float) -> None:
    """A few hundred prompts bring the estimate within 5 %, each model on its own."""
    density = Density()
    for size in range(200, 20_000, 100):
        density.observe("m", size, round(size / true))
    assert density.bytes_per_token("m") == pytest.approx(true, rel=0.05)
    assert density.bytes_per_token("other") == PRIOR


def test_one_odd_prompt_moves_it_little() -> None:
    """A huge prompt of another kind changes a settled estimate by less than a tenth."""
    density = Density()
    for _ in range(300):
        density.observe("m", 4000, 1000)
    density.observe("m", 10_000_000, 9_000_000)
    assert density.bytes_per_token("m") == pytest.approx(4.0, rel=0.1)


@given(st.lists(st.tuples(st.integers(-5, 10**12), st.integers(-5, 10**12)), max_size=30))
def test_it_stays_within_its_bounds(seen: list[tuple[int, int]]) -> None:
    """Whatever engines report, the estimate is between 1 and 16 bytes."""
    density = Density()
    for size, tokens in seen:
        density.observe("m", size, tokens)
    assert LEAST <= density.bytes_per_token("m") <= MOST


def test_models_are_bounded() -> None:
    """Model names without end do not grow the memory without end."""
    density = Density()
    for number in range(3000):
        density.observe(str(number), 100, 10)
    assert len(density._sums) == 1024
