"""The policy `preble-e2`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvroute.scorers.baselines.preble_e2 import PrebleE2
from kvroute.scorers.contract import Candidates
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)


def given(count: int = 2, **columns: Any) -> Candidates:
    """Replicas for a prompt of 1,000 tokens: 1 ms a token, nothing for attention, 100 ms of decode."""
    prices: dict[str, Any] = {
        "seconds_per_token": 1e-3,
        "seconds_per_quadratic": 0.0,
        "output_tokens": 10,
        "step_seconds": 0.01,
    }
    return candidates(count, tokens=1000, **{**prices, **columns})


@pytest.mark.parametrize(("hit", "chosen"), [(501.0, 0), (500.0, 1)])
def test_a_prefix_is_exploited_when_more_hits_than_misses(hit: float, chosen: int) -> None:
    """At half and half the replica with less work explores."""
    policy = PrebleE2()
    policy.on_decided(request(), given(), 0, 0.0)
    assert policy.choose(request(), given(hit_tokens=[hit, 0.0]), 1.0, RNG) == chosen


def test_the_cheapest_holder_gets_it() -> None:
    """Of two that hold the longest prefix the one with less work, though a third has none."""
    policy = PrebleE2()
    hits = [900.0, 900.0, 0.0]
    for index in (0, 0, 1):
        policy.on_decided(request(), given(3), index, 0.0)
    assert policy.choose(request(), given(3, hit_tokens=hits), 1.0, RNG) == 1


def test_a_shorter_hit_is_no_holder() -> None:
    """Whoever holds less than the longest prefix does not count, idle or not."""
    policy = PrebleE2()
    policy.on_decided(request(), given(), 0, 0.0)
    assert policy.choose(request(), given(hit_tokens=[900.0, 890.0]), 1.0, RNG) == 0


def test_work_is_the_prefill_and_the_decode_of_three_minutes() -> None:
    """1.1 s at the first, 0.1 + 0.1 s six times at the second; after three minutes nothing."""
    policy = PrebleE2()
    policy.on_decided(request(), given(), 0, 0.0)
    for _ in range(5):
        policy.on_decided(request(), given(hit_tokens=[900.0, 900.0]), 1, 60.0)
    assert policy.choose(request(), given(chosen=[2, 1]), 61.0, RNG) == 1  # 1.1 against 1.0
    policy.on_decided(request(), given(hit_tokens=[900.0, 900.0]), 1, 60.0)
    assert policy.choose(request(), given(chosen=[2, 1]), 61.0, RNG) == 0  # 1.1 against 1.2
    assert policy.choose(request(), given(chosen=[1, 2]), 200.0, RNG) == 0  # 0 against 1.2


def test_attention_is_part_of_the_prefill() -> None:
    """1000 * 1 ms + 1 us * 1000 * 500 + 0.1 s = 1.6 s against 1.5 s and 1.7 s."""
    for rival, chosen in ((1.5, 1), (1.7, 0)):
        policy = PrebleE2()
        policy.on_decided(request(), given(seconds_per_quadratic=1e-6), 0, 0.0)
        policy.on_decided(request(), given(seconds_per_token=(rival - 0.1) / 1000), 1, 0.0)
        assert policy.choose(request(), given(), 1.0, RNG) == chosen


def test_what_would_be_evicted_costs_its_prefill() -> None:
    """Room for 400 of 1,000 tokens: 0.6 s to compute the others' again, against 0.5 s or 0.7 s of work."""
    full = given(cached_tokens=[9600, 0], capacity_tokens=[10_000, np.inf])
    for work, chosen in ((500.0, 1), (700.0, 0)):
        policy = PrebleE2()
        policy.on_decided(request(), given(hit_tokens=1000 - work, output_tokens=0), 1, 0.0)
        assert policy.choose(request(), full, 1.0, RNG) == chosen


def test_equals_take_turns() -> None:
    """The least recently chosen of equals."""
    assert PrebleE2().choose(request(), given(3, chosen=[3, 1, 2]), 0.0, RNG) == 1


def test_a_window_of_no_time_is_refused() -> None:
    """There would be no load at all."""
    with pytest.raises(ValueError, match="window must be above 0 seconds"):
        PrebleE2(window=0.0)
