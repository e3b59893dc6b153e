"""The policy `chwbl`."""

from __future__ import annotations

import numpy as np
import pytest

from kvroute.scorers.baselines.chwbl import Chwbl
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)


def test_an_anchor_keeps_its_replica_up_to_the_bound() -> None:
    """At n <= 1.25 * (total + 1) / replicas the prompt stays, one more and it walks on, always to the same next."""
    policy = Chwbl()
    home = policy.choose(request(anchor=12345), candidates(4), 0.0, RNG)
    requests = [7.0] * 4
    requests[home] = 10.0  # the limit: 1.25 * (31 + 1) / 4 = 10
    assert policy.choose(request(anchor=12345), candidates(4, requests=requests), 0.0, RNG) == home
    requests[home] = 11.0  # 1.25 * (32 + 1) / 4 = 10.3
    following = policy.choose(request(anchor=12345), candidates(4, requests=requests), 0.0, RNG)
    assert following != home
    assert policy.choose(request(anchor=12345), candidates(4, requests=requests), 0.0, RNG) == following


def test_one_prefix_for_all_still_spreads() -> None:
    """However popular the prefix, no replica exceeds the bound."""
    policy = Chwbl()
    requests = [0.0] * 8
    for _ in range(400):
        requests[policy.choose(request(anchor=1), candidates(8, requests=requests), 0.0, RNG)] += 1.0
    assert max(requests) <= 1.25 * 401 / 8 + 1


def test_a_bound_below_one_is_refused() -> None:
    """Below 1 there need not be a replica within the bound."""
    with pytest.raises(ValueError, match="bound must be at least 1"):
        Chwbl(bound=0.9)
