"""The policy `power-of-two`."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.baselines.power_of_two import PowerOfTwo
from kvroute.scorers.testing import candidates, request


def test_the_less_loaded_of_two_wins() -> None:
    """Of two different random ones: the most loaded of four never wins, the least loaded wins half the time."""
    rng = np.random.default_rng(0)
    given = candidates(4, requests=[3, 2, 1, 0])
    counts = np.bincount([PowerOfTwo().choose(request(), given, 0.0, rng) for _ in range(6000)], minlength=4)
    np.testing.assert_allclose(counts / 6000, [0, 1 / 6, 2 / 6, 3 / 6], atol=0.03)


def test_equals_share() -> None:
    """No replica is preferred for its place in the list."""
    rng = np.random.default_rng(0)
    given = candidates(4)
    counts = np.bincount([PowerOfTwo().choose(request(), given, 0.0, rng) for _ in range(4000)], minlength=4)
    assert counts.min() > 900


def test_one_replica_is_enough() -> None:
    """There need not be two."""
    assert PowerOfTwo().choose(request(), candidates(1), 0.0, np.random.default_rng(0)) == 0
