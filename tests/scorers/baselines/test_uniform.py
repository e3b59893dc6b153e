"""The policy `random`."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.baselines.uniform import Uniform
from kvroute.scorers.testing import candidates, request


def test_all_are_equally_likely() -> None:
    """Four replicas get a quarter each, whatever their load."""
    rng = np.random.default_rng(0)
    given = candidates(4, requests=[99, 0, 0, 0])
    counts = np.bincount([Uniform().choose(request(), given, 0.0, rng) for _ in range(4000)], minlength=4)
    assert counts.min() > 900
