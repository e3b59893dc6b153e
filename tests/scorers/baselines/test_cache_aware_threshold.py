"""The policy `cache-aware-threshold`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvroute.scorers.baselines.cache_aware_threshold import CacheAwareThreshold
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)


def choose(requests: list[float], hits: list[float] | float = 0.0, **columns: Any) -> int:
    """The choice among so many replicas for a prompt of 1,000 tokens."""
    given = candidates(len(requests), tokens=1000, hit_tokens=hits, requests=requests, **columns)
    return CacheAwareThreshold().choose(request(), given, 0.0, RNG)


@pytest.mark.parametrize(
    ("requests", "even"),
    [([64, 0], True), ([65, 0], False), ([193, 129], True), ([195, 130], True), ([196, 130], False)],
)
def test_load_decides_only_beyond_both_bounds(requests: list[float], even: bool) -> None:
    """65 more is uneven, 64 is not, nor are 65 more that are exactly 1.5 times as many."""
    assert choose(requests, [900.0, 0.0]) == (0 if even else 1)


@pytest.mark.parametrize(("hit", "holder"), [(300.0, 1), (301.0, 0)])
def test_a_match_must_exceed_the_threshold(hit: float, holder: int) -> None:
    """At exactly 0.3 the smallest tree wins, above it the longest match."""
    assert choose([0, 0], [hit, 0.0], cached_tokens=[5000, 10]) == holder


def test_the_longest_match_wins_whatever_its_load() -> None:
    """Within the bounds neither requests nor the cache's size count."""
    assert choose([60, 0, 0], [901.0, 900.0, 0.0], cached_tokens=[9000, 1, 0]) == 0


def test_equals_take_turns() -> None:
    """The least recently chosen of equals, on each of the three ways."""
    assert choose([0, 0, 0], chosen=[3, 1, 2]) == 1
    assert choose([0, 0, 0], [900.0, 0.0, 900.0], chosen=[3, 1, 2]) == 2
    assert choose([100, 0, 0], chosen=[1, 3, 2]) == 2


def test_an_empty_prompt_goes_to_the_smallest_tree() -> None:
    """No tokens, no match."""
    given = candidates(2, tokens=0, cached_tokens=[2, 1])
    assert CacheAwareThreshold().choose(request(0), given, 0.0, RNG) == 1


def test_a_match_of_more_than_all_is_refused() -> None:
    """A share is from 0 to 1."""
    with pytest.raises(ValueError, match="match must be from 0 to 1"):
        CacheAwareThreshold(match=30)
