"""The policy `smetric`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvroute.scorers.baselines.smetric import SMetric
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)


def choose(policy: SMetric | None = None, count: int = 2, **columns: Any) -> int:
    """The choice for a prompt of 1,000 tokens, whose SLO is 1 + 0.0625 s, at 1 ms a token."""
    given = candidates(count, tokens=1000, **{"seconds_per_token": 1e-3, **columns})
    return (policy or SMetric()).choose(request(), given, 0.0, RNG)


@pytest.mark.parametrize(("hit", "chosen"), [(501.0, 0), (500.0, 1)])
def test_a_session_sticks_above_half_a_hit(hit: float, chosen: int) -> None:
    """At half a hit the work times requests decides: 500 * 3 against 1000 * 1."""
    assert choose(hit_tokens=[hit, 0.0], requests=[3, 1]) == chosen


@pytest.mark.parametrize(("queued", "chosen"), [(962.5, 0), (963.0, 1)])
def test_it_leaves_when_its_ttft_misses_the_slo(queued: float, chosen: int) -> None:
    """962.5 + 100 tokens take 1.0625 s, the SLO; half a token more and the other replica, which keeps it, gets it."""
    assert choose(hit_tokens=[900.0, 0.0], queued_tokens=[queued, 0], requests=[1, 1]) == chosen


def test_it_stays_when_nobody_meets_the_slo() -> None:
    """Where all are late the cache is kept, however late."""
    assert choose(hit_tokens=[900.0, 0.0], queued_tokens=[9000, 100], requests=[9, 1]) == 0


def test_slack_and_slo_are_options() -> None:
    """Twice the slack lets it stay; a price per token of the prompt too."""
    late: dict[str, Any] = {"hit_tokens": [900.0, 0.0], "queued_tokens": [1900, 0], "requests": [1, 1]}
    assert choose(**late) == 1
    assert choose(SMetric(slack=2.0), **late) == 0
    assert choose(SMetric(slo_per_token=1e-3), **late) == 0
    assert choose(SMetric(slo=2.0), **late) == 0


def test_the_least_loaded_of_the_longest_holders() -> None:
    """Of two equal hits the one with less work queued."""
    assert choose(count=3, hit_tokens=[900.0, 900.0, 0.0], queued_tokens=[500, 400, 0]) == 1


def test_balance_is_work_times_requests() -> None:
    """(200 + 1000) * 2 = 2400 against (0 + 1000) * 3."""
    assert choose(queued_tokens=[200, 0], requests=[2, 3]) == 0
    assert choose(queued_tokens=[600, 0], requests=[2, 3]) == 1


def test_attention_counts_when_priced() -> None:
    """miss * (in - miss/2) = 700 * 650 against 800 * 600: with a price for it the queue's part decides."""
    columns: dict[str, Any] = {"hit_tokens": [300.0, 200.0], "queued_tokens": [0, 0], "queued_quadratic": [100_000, 0]}
    columns |= {"requests": [1, 1]}
    assert choose(**columns) == 0  # 700 against 800
    assert choose(SMetric(c_att=1e-2), **columns) == 1  # 700 + 4550 + 1000 against 800 + 4800
    assert choose(SMetric(c_lin=0.0, c_att=1.0), **columns) == 1
    assert choose(SMetric(c_lin=100.0, c_att=1e-2), **columns) == 0


def test_equals_take_turns() -> None:
    """Idle replicas are equal, whatever they hold below the ratio."""
    assert choose(count=3, hit_tokens=[400.0, 0.0, 100.0], chosen=[3, 1, 2]) == 1
    assert choose(count=3, hit_tokens=[900.0, 0.0, 900.0], chosen=[3, 1, 2]) == 2
