"""The policy `least-requests`."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.baselines.least_requests import LeastRequests
from kvroute.scorers.testing import candidates, request


def test_the_fewest_requests_win_and_equals_draw() -> None:
    """The loaded one gets nothing; the two equals about half each."""
    rng = np.random.default_rng(0)
    given = candidates(3, requests=[2, 1, 1])
    counts = np.bincount([LeastRequests().choose(request(), given, 0.0, rng) for _ in range(2000)], minlength=3)
    assert counts[0] == 0
    assert counts[1:].min() > 900
