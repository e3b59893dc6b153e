"""A run in numbers."""

from __future__ import annotations

import math

import pytest

from kvroute.router.core.steptime import StepTime
from kvroute.scorers.contract import Role
from kvroute.scorers.plugins import PolicySpec, ScorerSpec
from kvroute.simulator.latency.kind import Ingress, Kind
from kvroute.simulator.reports.summary import policy_name, summarise
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.slo import Slo
from tests.simulator.reports.outcomes import NOWHERE, outcome, scenario


def test_times_of_one_request() -> None:
    """TTFT, TPOT over the tokens after the first, end to end, and queueing from the arrival at the engine."""
    kind = Kind(ingress=Ingress(seconds=0.1, per_token=0.001))
    summary = summarise(outcome([(1.0, 1.5, 2.0, 4.0)], prompt=100, output=11), scenario(kind=kind))
    assert summary.ttft is not None
    assert summary.ttft.mean == pytest.approx(1.0)
    assert summary.tpot is not None
    assert summary.tpot.p50 == pytest.approx(0.2)
    assert summary.e2e is not None
    assert summary.e2e.max == pytest.approx(3.0)
    assert summary.queue is not None
    assert summary.queue.p99 == pytest.approx(0.3)
    assert summary.duration_seconds == pytest.approx(3.0)
    assert summary.offered_rate is None


def test_a_single_token_has_no_tpot() -> None:
    """It is left out of the distribution rather than counted as zero."""
    summary = summarise(outcome([(0.0, 0.0, 1.0, 1.0), (1.0, 1.0, 2.0, 3.0)], output=[1, 5]), scenario())
    assert summary.tpot is not None
    assert summary.tpot.mean == summary.tpot.max == pytest.approx(0.25)
    alone = summarise(outcome([(0.0, 0.0, 1.0, 1.0)], output=1), scenario())
    assert alone.tpot is None
    assert alone.itl is None


def test_percentiles_lie_between_neighbours_in_proportion() -> None:
    """101 requests of 0 to 100 s: each percentile is its own number."""
    summary = summarise(outcome([(0.0, 0.0, float(i), float(i)) for i in range(101)]), scenario())
    assert summary.ttft is not None
    found = (summary.ttft.p50, summary.ttft.p90, summary.ttft.p95, summary.ttft.p99, summary.ttft.max)
    assert found == pytest.approx((50.0, 90.0, 95.0, 99.0, 100.0))


def test_inter_token_times_come_from_their_histogram() -> None:
    """Ten gaps of about 10 ms and one of about 1 s."""
    run = outcome([(0.0, 0.0, 0.1, 1.0)])
    usual, long = (round(math.log(gap / run.gaps.LEAST) / math.log(run.gaps.GROWTH)) for gap in (0.01, 1.0))
    run.gaps.counts = {long: 1.0, usual: 10.0}
    itl = summarise(run, scenario()).itl
    assert itl is not None
    assert itl.p50 == pytest.approx(0.01, rel=0.006)
    assert itl.p90 == pytest.approx(0.01, rel=0.006)
    assert itl.p99 == itl.max == pytest.approx(1.0, rel=0.006)
    assert itl.mean == pytest.approx(1.1 / 11, rel=0.006)


def test_refused_and_unfinished_requests_are_counted_and_left_out_of_latencies() -> None:
    """One of each; only the two completed ones are measured."""
    rows = [(0.0, 0.0, 1.0, 2.0), (1.0, None, None, None), (2.0, 2.0, 3.0, 4.0), (3.0, 3.5, None, None)]
    summary = summarise(outcome(rows, replica=[0, -1, 0, 0], refused=1), scenario())
    assert (summary.requests, summary.completed, summary.refused, summary.unfinished) == (4, 2, 1, 1)
    assert summary.ttft is not None
    assert summary.ttft.max == pytest.approx(1.0)
    assert summary.offered_rate == pytest.approx(1.0)
    assert summary.throughput_requests == pytest.approx(0.5)


def test_a_run_without_answers_has_no_latencies() -> None:
    """Nothing is made up where nothing was completed."""
    summary = summarise(outcome([(0.0, None, None, None)] * 3, refused=3), scenario(), Slo.parse("ttft_p90<1s"))
    assert summary.ttft is None
    assert summary.completed == 0
    assert summary.goodput == 0.0
    assert summary.slo_met is False
    assert summarise(outcome([]), scenario()).requests == 0


def test_cache_rates_are_shares_of_prompt_tokens() -> None:
    """Long prompts weigh more than short ones."""
    summary = summarise(outcome([(0.0, 0.0, 1.0, 2.0)] * 2, prompt=[100, 900], cached=[0, 450]), scenario())
    assert summary.cached_token_rate == pytest.approx(0.45)
    assert summary.believed_token_rate == pytest.approx(0.45)
    assert summary.reusable_token_rate == pytest.approx(0.45)


def test_balance_is_the_most_over_the_mean() -> None:
    """Three requests here and one there: 1.5; cached tokens are no work."""
    summary = summarise(
        outcome([(0.0, 0.0, 1.0, 2.0)] * 4, replica=[0, 0, 0, 1], cached=[0, 50, 50, 0], replicas=2), scenario(2)
    )
    assert summary.balance_requests == pytest.approx(1.5)
    assert summary.balance_work == pytest.approx(200 / 150)
    assert [(one.name, one.requests, one.cached_tokens) for one in summary.per_replica] == [
        ("replica-0", 3, 100), ("replica-1", 1, 0),
    ]  # fmt: skip


def test_a_faster_replica_may_get_more_without_being_uneven() -> None:
    """Loads are divided by how fast each replica prefills."""
    fast = Kind(name="fast", step=StepTime(c3=11e-6), ingress=NOWHERE.ingress)
    fleet = Scenario(replicas=(NOWHERE, fast))
    summary = summarise(outcome([(0.0, 0.0, 1.0, 2.0)] * 3, replica=[0, 1, 1], replicas=2), fleet)
    assert summary.balance_requests == pytest.approx(1.0)
    assert summary.balance_work == pytest.approx(1.0)


def test_prefill_and_decode_apart_are_counted_where_they_ran() -> None:
    """Prompt tokens where they were computed, output where it was generated; each role is balanced by itself."""
    roles = (Role.PREFILL, Role.DECODE, Role.DECODE)
    fleet = Scenario(replicas=tuple(Kind(role=role, ingress=NOWHERE.ingress) for role in roles))
    rows = [(0.0, 0.0, 1.0, 2.0)] * 4
    summary = summarise(outcome(rows, replica=[1, 1, 1, 2], prefill=0, replicas=3, output=7), fleet)
    assert [(one.requests, one.prompt_tokens, one.output_tokens) for one in summary.per_replica] == [
        (4, 400, 0), (3, 0, 21), (1, 0, 7),
    ]  # fmt: skip
    assert summary.balance_work == pytest.approx(1.0)
    assert summary.balance_requests == pytest.approx(1.5)


def test_skip_leaves_out_the_warm_up() -> None:
    """Requests sent before that moment are in no figure."""
    rows = [(0.0, 5.0, 9.0, 9.5), (10.0, 10.0, 10.1, 10.2), (20.0, 20.0, 20.1, 20.2)]
    summary = summarise(outcome(rows), scenario(), skip=10.0)
    assert summary.requests == summary.completed == 2
    assert summary.ttft is not None
    assert summary.ttft.max == pytest.approx(0.1)
    assert summary.unfinished == summary.refused == 0


def test_goodput_counts_requests_that_are_good_each() -> None:
    """Three of four within 1 s, over ten seconds."""
    rows = [(0.0, 0.0, 0.5, 1.0), (1.0, 1.0, 1.5, 2.0), (2.0, 2.0, 4.0, 5.0), (9.0, 9.0, 9.5, 10.0)]
    summary = summarise(outcome(rows), scenario(), Slo.parse("ttft_p50<1s"))
    assert summary.goodput == pytest.approx(0.3)
    assert summary.slo_share == pytest.approx(0.75)
    assert summary.slo_met is True


def test_policies_are_named_with_what_was_changed() -> None:
    """Options in order of their names, weights that are not 1."""
    spec = PolicySpec("latency", {"b": 2, "a": 1}, (ScorerSpec("mine", weight=0.5),))
    assert policy_name(Scenario(replicas=(NOWHERE,), policy=spec)) == "latency(a=1,b=2)+mine*0.5"
