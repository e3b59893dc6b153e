"""The policy `lpwl`."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.baselines.lpwl import Lpwl
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)


def test_the_least_work_wins_whatever_the_requests() -> None:
    """400 + 500 beats 0 + 1000; 600 + 500 does not."""
    given = candidates(2, tokens=1000, hit_tokens=[500, 0], queued_tokens=[400, 0], requests=[90, 0])
    assert Lpwl().choose(request(), given, 0.0, RNG) == 0
    given = candidates(2, tokens=1000, hit_tokens=[500, 0], queued_tokens=[600, 0])
    assert Lpwl().choose(request(), given, 0.0, RNG) == 1


def test_equals_take_turns() -> None:
    """The least recently chosen of equals."""
    assert Lpwl().choose(request(), candidates(3, chosen=[3, 1, 2]), 0.0, RNG) == 1
