"""The policy `lmetric`."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.baselines.lmetric import LMetric
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)


def test_the_smallest_product_of_work_and_requests_wins() -> None:
    """(100 + 400) * (3 + 1) = 2000 beats (0 + 1000) * (2 + 1) = 3000; with one request more there it does not."""
    given = candidates(2, tokens=1000, hit_tokens=[600, 0], queued_tokens=[100, 0], requests=[3, 2])
    assert LMetric().choose(request(), given, 0.0, RNG) == 0
    given = candidates(2, tokens=1000, hit_tokens=[600, 0], queued_tokens=[100, 0], requests=[6, 2])
    assert LMetric().choose(request(), given, 0.0, RNG) == 1


def test_equals_take_turns() -> None:
    """The least recently chosen of equals."""
    assert LMetric().choose(request(), candidates(3, chosen=[3, 1, 2]), 0.0, RNG) == 1
