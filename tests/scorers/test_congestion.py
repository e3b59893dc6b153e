"""The congestion scorer."""

from __future__ import annotations

import pytest

from kvroute.scorers.congestion import Congestion
from kvroute.scorers.testing import candidates, request


def test_a_busy_replica_charges_the_queueing_factor() -> None:
    """T times rho/(1-rho): nothing when idle, T at one half, 19 T at the cap and above it."""
    given = candidates(4, tokens=1000, busy=[0.0, 0.5, 0.95, 1.0], seconds_per_token=1e-3, seconds_per_quadratic=0)
    assert Congestion().seconds(request(), given, 0.0).tolist() == pytest.approx([0.0, 1.0, 19.0, 19.0])


def test_a_full_cache_charges_the_eviction() -> None:
    """T once more where at least 97 % of the cache is taken; an unknown capacity is never full."""
    given = candidates(
        3,
        tokens=1000,
        cached_tokens=[969, 970, 970],
        capacity_tokens=[1000, 1000, float("inf")],
        seconds_per_token=1e-3,
        seconds_per_quadratic=0,
    )
    assert Congestion().seconds(request(), given, 0.0).tolist() == pytest.approx([0.0, 1.0, 0.0])
