"""A whole run: routers over simulated engines."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from kvroute.router.core.steptime import StepTime
from kvroute.scorers.plugins import PolicySpec
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.kind import Ingress, Kind
from kvroute.simulator.runs.outcome import Outcome
from kvroute.simulator.runs.run import Run, simulate
from kvroute.simulator.runs.scenario import Lateness, Scenario
from kvroute.simulator.workloads.contract import Job
from tests.simulator.runs.jobs import Listed, job, poisson

SMALL = Kind(limits=Limits(blocks=700))
"""A cache of 11,200 tokens: a few prompts fill it."""
POLICIES = (
    "latency",
    "goodput",
    "round-robin",
    "random",
    "least-requests",
    "power-of-two",
    "session-hash",
    "chwbl",
    "lmetric",
)
LATENESSES = (
    Lateness(),
    Lateness("exact"),
    Lateness(routers=3),
    Lateness(routers=3, share_seconds=0.005),
    Lateness("exact", routers=2, share_seconds=0.005),
)


def _picks(outcome: Outcome, count: int) -> list[tuple[int, int, float]]:
    """What was decided for the first requests: replica, believed hit, predicted TTFT."""
    requests = outcome.requests
    return list(zip(requests.replica[:count], requests.hit[:count], requests.predicted[:count], strict=True))


@pytest.mark.parametrize("lateness", LATENESSES, ids=lambda lateness: repr(lateness)[9:60])
def test_nothing_is_lost(lateness: Lateness) -> None:
    """Each request is answered once, in order of its times; tokens add up; no lease stays open."""
    jobs = poisson(300, 60.0)
    run = Run(Listed(jobs), Scenario((SMALL,) * 4, lateness=lateness))
    run.go(None, None)
    outcome = run.outcome(0.0)
    requests = outcome.requests
    assert (len(requests), outcome.refused, outcome.unfinished) == (300, 0, 0)
    for row, one in enumerate(jobs):
        assert requests.at[row] == one.at
        assert requests.at[row] < requests.scheduled[row] < requests.first[row] <= requests.ended[row]
        assert 0 <= requests.cached[row] < requests.prompt[row]
    totals = outcome.totals
    assert sum(one.prompt_tokens for one in totals) == sum(requests.prompt)
    assert sum(one.generated_tokens for one in totals) == sum(requests.output)
    assert sum(one.cached_tokens for one in totals) == sum(requests.cached)
    assert outcome.reusable_tokens >= sum(requests.cached)
    assert all(open_leases == 0 for open_leases in run.open_leases())


def test_same_seed_same_outcome() -> None:
    """Twice the same run is the same to the last bit, dice included."""
    scenario = Scenario((SMALL,) * 4, PolicySpec("power-of-two"), seed=3, lateness=Lateness(routers=2))
    first, second = (simulate(Listed(poisson(200, 80.0)), scenario) for _ in range(2))
    assert _picks(first, 200) == _picks(second, 200)
    assert list(first.requests.ended) == list(second.requests.ended)


def _changed_after(jobs: list[Job], moment: float, unfinished: set[int]) -> list[Job]:
    """The same until `moment`; other arrivals after it, and longer answers where nobody can have seen the end."""
    kept = [
        Job(one.at, one.request, one.output_tokens + 500) if row in unfinished else one
        for row, one in enumerate(jobs)
        if one.at <= moment
    ]
    return kept + [job(f"late{i}", moment + 0.001 * (i + 1), 99, output=5) for i in range(50)]


@pytest.mark.parametrize("lateness", LATENESSES, ids=lambda lateness: repr(lateness)[9:60])
def test_no_decision_knows_the_future(lateness: Lateness) -> None:
    """Decisions before a moment do not depend on what comes after it, nor on how long unfinished answers will be."""
    jobs = poisson(300, 100.0)
    moment = jobs[180].at
    scenario = Scenario((SMALL,) * 4, lateness=lateness)
    told = simulate(Listed(jobs), scenario)
    count = sum(one.at <= moment for one in jobs)
    unfinished = {row for row in range(count) if told.requests.ended[row] > moment}
    assert unfinished
    changed = simulate(Listed(_changed_after(jobs, moment, unfinished)), scenario)
    assert _picks(told, count) == _picks(changed, count)


def test_an_endlessly_fast_fleet_has_no_queue() -> None:
    """Where steps take no time nobody waits: TTFT is ingress and reply."""
    fast = Kind(
        step=StepTime(c0=1e-9, c1=0.0, c2=0.0, c3=1e-12, c4=0.0), limits=Limits(blocks=100_000),
        ingress=Ingress(seconds=0.004, per_token=0.0, reply=0.001),
    )  # fmt: skip
    requests = simulate(Listed(poisson(300, 1000.0)), Scenario((fast,) * 3)).requests
    for row in range(300):
        assert requests.scheduled[row] - requests.at[row] == pytest.approx(0.004, abs=1e-6)
        assert requests.first[row] - requests.at[row] == pytest.approx(0.005, abs=1e-6)


def test_with_one_replica_all_policies_are_equal() -> None:
    """There is nothing to choose: every request's times are the same."""
    outcomes = [simulate(Listed(poisson(150, 20.0)), Scenario((SMALL,), PolicySpec(name))) for name in POLICIES]
    for outcome in outcomes[1:]:
        assert list(outcome.requests.ended) == list(outcomes[0].requests.ended)


def test_step_by_step_and_in_closed_form() -> None:
    """Both engines give the same picks, hits and orders, and the same times within 1 %."""
    jobs = poisson(300, 120.0)
    kind = Kind(limits=Limits(blocks=175, block_size=64))
    kinds = (kind, Kind(step=StepTime(c0=9e-3), limits=Limits(blocks=225, block_size=64)), kind, kind)
    runs = [simulate(Listed(jobs), Scenario(kinds, stepwise=stepwise)) for stepwise in (True, False)]
    reference, closed = (run.requests for run in runs)
    assert list(reference.replica) == list(closed.replica)
    assert list(reference.cached) == list(closed.cached)
    assert list(reference.preemptions) == list(closed.preemptions)
    for name in ("scheduled", "first", "ended"):
        np.testing.assert_allclose(getattr(reference, name), getattr(closed, name), rtol=0.01)


def test_a_turn_follows_its_answer() -> None:
    """In a closed loop the next turn comes its think time after the answer, not before."""
    first, second = job("a", 0.0, 1), job("b", 0.0, 1)
    requests = simulate(Listed([first], {"a": (2.5, second)}), Scenario((SMALL,) * 2)).requests
    assert requests.at[1] == requests.ended[0] + 2.5


def test_what_no_replica_has_room_for_is_refused() -> None:
    """A prompt larger than the cache is answered with an error, and the others go on."""
    jobs = [job("big", 0.0, 1, blocks=500), job("small", 0.1, 2)]
    outcome = simulate(Listed(jobs), Scenario((SMALL,) * 2))
    assert outcome.refused == 1
    assert math.isnan(outcome.requests.ended[0])
    assert not math.isnan(outcome.requests.ended[1])


def test_a_run_can_be_stopped() -> None:
    """It ends early, and says how many were under way."""
    outcome = simulate(Listed(poisson(3000, 400.0)), Scenario((Kind(),) * 4), stop=lambda: True)
    assert 0 < len(outcome.requests) < 3000
    assert outcome.unfinished > 0


def test_what_is_known_late_costs() -> None:
    """Routers that know nothing of each other predict worse than one that knows all."""
    errors = []
    for routers in (1, 4):
        requests = simulate(
            Listed(poisson(600, 150.0)), Scenario((SMALL,) * 4, lateness=Lateness(routers=routers))
        ).requests
        actual = np.array(requests.first) - np.array(requests.at)
        errors.append(float(np.mean(np.abs(actual - np.array(requests.predicted)))))
    assert errors[0] < errors[1]


def test_a_fleet_that_cannot_hold_the_keys() -> None:
    """Keys that are no multiple of the block size are refused, with both numbers."""
    with pytest.raises(FleetError, match=r"64 tokens.*48"):
        simulate(Listed([]), Scenario((Kind(limits=Limits(block_size=48)),)))
    with pytest.raises(FleetError, match="at least one replica"):
        simulate(Listed([]), Scenario(()))


def test_adapters_are_loaded_where_they_are_not() -> None:
    """Requests for adapters are answered; where few fit on a device, the router keeps them together."""
    jobs = [
        Job(one.at, msgspec.structs.replace(one.request, adapter=f"adapter-{row * row % 7}"), one.output_tokens)
        for row, one in enumerate(poisson(300, 40.0))
    ]
    kind = Kind(limits=Limits(blocks=4000, max_loras=2, adapter_seconds=0.5))
    means = {}
    for policy in ("latency", "round-robin"):
        outcome = simulate(Listed(jobs), Scenario((kind,) * 4, PolicySpec(policy)))
        assert outcome.refused == outcome.unfinished == 0
        means[policy] = float(np.mean(np.array(outcome.requests.first) - np.array(outcome.requests.at)))
    assert means["latency"] < 0.5 * means["round-robin"]


def test_answers_take_room_in_the_cache() -> None:
    """Blocks of answers that nobody will ask for push others out, as in the engine."""
    cached = []
    for output in (2, 400):
        jobs = [job(f"q{i}", 0.5 * i, i % 12, blocks=12, shared=10, output=output) for i in range(200)]
        cached.append(sum(simulate(Listed(jobs), Scenario((SMALL,))).requests.cached))
    assert cached[1] < 0.9 * cached[0]


def test_adapters_that_all_fit_bind_nobody() -> None:
    """Where a device holds all adapters, each is taken to be there, and all replicas share the work."""
    jobs = [
        Job(one.at, msgspec.structs.replace(one.request, adapter=f"adapter-{row % 2}"), one.output_tokens)
        for row, one in enumerate(poisson(200, 40.0))
    ]
    kind = Kind(limits=Limits(blocks=4000, max_loras=4, adapter_seconds=0.5))
    outcome = simulate(Listed(jobs), Scenario((kind,) * 4))
    assert min(np.bincount(outcome.requests.replica, minlength=4)) > 25


def test_an_idle_age_is_over_at_once() -> None:
    """Routers that scrape do not scrape through a million idle seconds one by one."""
    jobs = [job("now", 0.0, 1), job("much later", 1e9, 1)]
    outcome = simulate(Listed(jobs), Scenario((SMALL,) * 2, lateness=Lateness(routers=2)))
    assert (outcome.refused, outcome.unfinished) == (0, 0)


def test_samples_show_the_moment_that_they_are_of() -> None:
    """KV in use grows while answers do, with both engines alike, though the closed form computes many steps at once."""
    ticks = [job(f"tick{i}", 0.5 + 0.5 * i, 2, blocks=1, shared=0, output=1) for i in range(36)]
    jobs = [job("long", 0.0, 1, output=3000), *ticks]
    kind = Kind(limits=Limits(blocks=500, block_size=64))
    step, closed = (simulate(Listed(jobs), Scenario((kind,), stepwise=stepwise)).samples for stepwise in (True, False))
    at = {round(sample.time, 6): sample for sample in step}
    both = [(at[round(sample.time, 6)], sample) for sample in closed if round(sample.time, 6) in at]
    assert len(both) > 20
    assert both[-2][1].kv_usage[0] > 3 * both[2][1].kv_usage[0]
    for one, other in both:
        assert (one.kv_usage, one.running, one.waiting) == (other.kv_usage, other.running, other.waiting)
