"""The policy `weighted-sum`."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvroute.scorers.baselines.weighted_sum import WeightedSum
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)


def test_the_three_parts_by_hand() -> None:
    """Waiting 4, 2, 0 gives 0, 1, 2; K 0, 0.5, 1 gives 2, 1, 0; hits 0.4, 0.8, 0 give 1.2, 2.4, 0: 3.2, 4.4, 2."""
    columns: dict[str, Any] = {
        "requests": [6, 2, 5],
        "decoding": [2, 0, 5],
        "active_tokens": [0, 500, 1000],
        "capacity_tokens": [1000, 1000, 1000],
    }
    given = candidates(3, tokens=1000, hit_tokens=[400, 800, 0], **columns)
    assert WeightedSum().choose(request(), given, 0.0, RNG) == 1
    # With hits 0.4 and 0.39 it is 3.2 against 3.17, and with 0.41 against 3.23.
    given = candidates(3, tokens=1000, hit_tokens=[400, 390, 0], **columns)
    assert WeightedSum().choose(request(), given, 0.0, RNG) == 0
    given = candidates(3, tokens=1000, hit_tokens=[400, 410, 0], **columns)
    assert WeightedSum().choose(request(), given, 0.0, RNG) == 1


def test_the_queue_is_measured_from_the_shortest() -> None:
    """Waiting 101 and 100 is 0 and 2, as 1 and 0 would be: a hit of 0.6 is not enough, one of 0.7 is."""
    for hit, chosen in ((600.0, 1), (700.0, 0)):
        given = candidates(2, tokens=1000, hit_tokens=[hit, 0.0], requests=[101, 100])
        assert WeightedSum().choose(request(), given, 0.0, RNG) == chosen


def test_equal_queues_say_nothing() -> None:
    """Min-max over equals is no division by zero: KV use decides."""
    given = candidates(2, requests=[7, 7], active_tokens=[20, 10], capacity_tokens=[100, 100])
    assert WeightedSum().choose(request(), given, 0.0, RNG) == 1


def test_an_unknown_capacity_counts_as_empty_and_more_than_all_as_full() -> None:
    """K is 0 without a capacity and never above 1."""
    given = candidates(3, active_tokens=[10_000, 1, 5000], capacity_tokens=[np.inf, 100, 100], chosen=[9, 1, 2])
    assert WeightedSum().choose(request(), given, 0.0, RNG) == 0
    given = candidates(2, hit_tokens=[1, 0], active_tokens=[500, 100], capacity_tokens=[100, 100])
    assert WeightedSum().choose(request(), given, 0.0, RNG) == 0


def test_the_weights_are_options() -> None:
    """Without a weight for the prefix the shorter queue wins."""
    given = candidates(2, tokens=1000, hit_tokens=[1000, 0], requests=[3, 1])
    assert WeightedSum().choose(request(), given, 0.0, RNG) == 0
    assert WeightedSum(prefix=0.0).choose(request(), given, 0.0, RNG) == 1


def test_equals_take_turns() -> None:
    """The least recently chosen of equals."""
    assert WeightedSum().choose(request(), candidates(3, chosen=[3, 1, 2]), 0.0, RNG) == 1
