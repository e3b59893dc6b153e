"""The policy `round-robin`."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.baselines.round_robin import RoundRobin
from kvroute.scorers.testing import candidates, request


def test_everybody_in_turn_whatever_the_load() -> None:
    """Each replica gets every fourth request."""
    chosen = [0.0] * 4
    picks = []
    for turn in range(1, 13):
        given = candidates(4, chosen=chosen, requests=[99, 0, 0, 0])
        index = RoundRobin().choose(request(), given, 0.0, np.random.default_rng(0))
        chosen[index] = turn
        picks.append(index)
    assert picks == [0, 1, 2, 3] * 3
