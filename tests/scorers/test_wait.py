"""The wait scorer."""

from __future__ import annotations

import pytest

from kvroute.scorers.testing import candidates, request
from kvroute.scorers.wait import Wait


def test_free_room_and_slots_cost_nothing() -> None:
    """A replica with room for the miss and a free slot is not waited for, nor is one of unknown size."""
    given = candidates(2, active_tokens=5000, capacity_tokens=[10_000, float("inf")], slots=[8, float("inf")])
    assert Wait().seconds(request(), given, 0.0).tolist() == [0.0, 0.0]


def test_lacking_room_waits_for_its_share_of_a_mean_output() -> None:
    """Tokens lacking, over tokens in use, times output length, times step time; a hit needs no room."""
    given = candidates(
        2,
        tokens=1000,
        hit_tokens=[0, 1000],
        active_tokens=10_000,
        capacity_tokens=10_000,
        output_tokens=200,
        step_seconds=0.01,
    )
    assert Wait().seconds(request(), given, 0.0).tolist() == pytest.approx([0.1 * 2.0, 0.0001 * 2.0])


def test_requests_over_the_limit_wait_for_slots() -> None:
    """A request that finds all slots taken waits 1/limit of a mean output; several sequences need several slots."""
    given = candidates(1, requests=4, slots=4, output_tokens=100, step_seconds=0.01)
    assert Wait().seconds(request(), given, 0.0).tolist() == pytest.approx([0.25])
    assert Wait().seconds(request(sequences=2), given, 0.0).tolist() == pytest.approx([0.5])


def test_the_longer_of_the_two_waits_counts() -> None:
    """Room and slots come free at the same time, so their waits do not add up."""
    given = candidates(
        1, tokens=1000, active_tokens=10_000, capacity_tokens=10_000, requests=4, slots=4, output_tokens=100
    )
    assert Wait().seconds(request(), given, 0.0).tolist() == pytest.approx([0.25])


def test_a_prompt_larger_than_an_empty_cache_is_finite() -> None:
    """With nothing in use there is nothing to divide by, and the answer stays a number."""
    given = candidates(1, tokens=1000, active_tokens=0, capacity_tokens=100)
    assert 0.0 < Wait().seconds(request(), given, 0.0)[0] < float("inf")
