"""Learned rates: fitted robustly, bounded by the fleet's prior."""

from __future__ import annotations

import numpy as np
import pytest

from kvroute.router.core.estimate import WINDOW, Estimate, Rate
from kvroute.router.core.fleet import Fleet
from kvroute.router.core.replica import Replica, Spec, State
from kvroute.scorers.contract import Column


def fleet_of(count: int) -> tuple[Fleet, list[Replica]]:
    """Ready replicas of one model."""
    fleet = Fleet()
    replicas = [fleet.join(Spec(name=f"r{i}", endpoint=f"r{i}", models=("m",)), 0.0) for i in range(count)]
    for replica in replicas:
        fleet.move(replica, State.READY)
    return fleet, replicas


def test_fit_finds_slope_and_intercept_among_outliers() -> None:
    """A sixth of the streams held up by something else does not move the fit by a tenth."""
    rng = np.random.default_rng(1)
    fleet, (replica,) = fleet_of(1)
    estimate = Estimate(fleet)
    for _ in range(192):
        work = rng.uniform(0.0, 0.5)
        ttft = 0.03 + 2.0 * work * rng.normal(1.0, 0.03)
        estimate.first_output(replica, work, ttft + (5.0 if rng.random() < 1 / 6 else 0.0))
    assert estimate.line.base == pytest.approx(0.03, abs=0.02)
    assert estimate.line.factor == pytest.approx(2.0, rel=0.1)
    assert replica.slow == pytest.approx(2.0, rel=0.1)


def test_requests_all_alike_still_give_a_factor() -> None:
    """Without spread the base stays what it was and the replica's factor takes the difference."""
    fleet, (replica,) = fleet_of(1)
    estimate = Estimate(fleet)
    for _ in range(96):
        estimate.first_output(replica, 0.1, 0.9)
    assert replica.slow * 0.1 + estimate.line.base == pytest.approx(0.9, rel=0.05)
    assert estimate.line.base <= 0.2


def test_equal_replicas_under_noise_stay_near_each_other() -> None:
    """Mostly hits, a constant as long as their work, streams held up now and then: no replica looks twice another."""
    rng = np.random.default_rng(5)
    fleet, replicas = fleet_of(4)
    estimate = Estimate(fleet)
    for i in range(1200):
        work = float(rng.choice([0.003, 0.01, 0.02, 0.05], p=[0.5, 0.2, 0.2, 0.1]))
        held = float(rng.exponential(0.03)) if rng.random() < 0.5 else 0.0
        estimate.first_output(replicas[i % 4], work, 0.08 + 6.0 * work + held)
        if i >= 64:
            slow = [replica.slow for replica in replicas]
            assert max(slow) < 2.0 * min(slow)
            assert 3.0 < sum(slow) / 4 < 12.0


def test_unobserved_replicas_take_the_fleets_median() -> None:
    """A replica that joins a fleet of slow ones is taken to be as slow as their median."""
    fleet, replicas = fleet_of(4)
    estimate = Estimate(fleet)
    for replica, factor in zip(replicas[:3], (3.0, 4.0, 5.0), strict=True):
        for work in np.linspace(0.05, 0.5, 48):
            estimate.first_output(replica, float(work), factor * float(work))
    assert estimate.prior() == pytest.approx(4.0)
    estimate.forget(replicas[3])
    assert replicas[3].slow == pytest.approx(4.0)
    assert replicas[0].slow < replicas[1].slow < replicas[2].slow


def test_one_replica_stays_within_ten_of_the_prior() -> None:
    """A replica whose streams say 1,000 times slower is believed tenfold at most."""
    fleet, replicas = fleet_of(5)
    estimate = Estimate(fleet)
    for replica, factor in zip(replicas, (1.0, 1.0, 1.0, 1.0, 1000.0), strict=True):
        for work in np.linspace(0.05, 0.5, 48):
            estimate.first_output(replica, float(work), factor * float(work))
    assert replicas[4].slow <= 10.0


def test_engine_sums_set_the_prior_before_any_stream() -> None:
    """An engine's own prefill seconds and computed tokens stand in until streams were seen: CPU engines are slow."""
    fleet, replicas = fleet_of(1)
    estimate = Estimate(fleet)
    estimate.engine_sums(replicas[0], prefill_seconds=3.0, computed_tokens=3000.0)
    per_token = fleet.table[Column.SECONDS_PER_TOKEN, replicas[0].row]
    assert per_token == pytest.approx(1e-3, rel=1e-6)


def test_long_prefills_say_more_of_a_speed_than_short_ones() -> None:
    """Short prefills that a step more makes look five times as slow do not outvote a few long ones."""
    rate = Rate()
    for number in range(WINDOW):
        work = 1.0 if number % 4 == 0 else 0.02
        rate.observe(work, work if work == 1.0 else 5 * work, 0.0)
    assert rate.factor == 1.0


def test_the_prior_is_the_median_of_whoever_was_observed() -> None:
    """Factors that change, and replicas that are forgotten, leave the prior what sorting all of them says."""
    rng = np.random.default_rng(3)
    fleet, replicas = fleet_of(6)
    estimate = Estimate(fleet)
    for turn in range(600):
        replica = replicas[int(rng.integers(6))]
        estimate.first_output(replica, 0.1, float(rng.uniform(0.1, 0.9)), turn * 0.01)
        if rng.random() < 0.02:
            estimate.forget(replica)
        factors = [estimate.rate(one).factor for one in replicas if estimate.rate(one).observed]
        assert estimate.prior() == pytest.approx(float(np.median(factors)) if factors else 1.0)


def test_a_busy_fleet_fits_its_line_no_more_than_twenty_times_a_second() -> None:
    """10,000 streams a second that have become slower change the line after 50 ms, not before."""
    fleet, (replica,) = fleet_of(1)
    estimate = Estimate(fleet)
    works = np.linspace(0.05, 0.5, 64)
    for number, work in enumerate(np.tile(works, 12)):
        slow = 2.0 if number < 128 else 4.0
        estimate.first_output(replica, float(work), slow * float(work), number * 1e-4)
        if 128 <= number < 500:
            assert estimate.line.factor == pytest.approx(2.0)
    assert estimate.line.factor == pytest.approx(4.0)
