"""Prefill on one replica, decode on another."""

from __future__ import annotations

import gc

import msgspec
import pytest

from kvroute.scorers.contract import Role
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.runs.links import Links
from kvroute.simulator.runs.run import Run, simulate
from kvroute.simulator.runs.scenario import Lateness, Scenario
from kvroute.simulator.runs.underway import Open
from tests.simulator.runs.jobs import Listed, job, poisson

KIND = Kind(limits=Limits(blocks=4000))


def _of(role: Role, **fields: float) -> Kind:
    return msgspec.structs.replace(KIND, role=role, **fields)


SPLIT = (_of(Role.PREFILL), _of(Role.PREFILL), _of(Role.DECODE), _of(Role.DECODE))


def test_nothing_is_lost_on_the_way() -> None:
    """Each request is answered once, its times are in order, no lease and no block stays held."""
    run = Run(Listed(poisson(300, 60.0)), Scenario(SPLIT))
    run.go(None, None)
    outcome = run.outcome(0.0)
    requests = outcome.requests
    assert (len(requests), outcome.refused, outcome.unfinished) == (300, 0, 0)
    for row in range(300):
        assert requests.at[row] < requests.scheduled[row] < requests.first[row] <= requests.ended[row]
        assert requests.prefill[row] in (-1, 0, 1)
        assert requests.replica[row] in (2, 3)
    paired = sum(source >= 0 for source in requests.prefill)
    assert 100 < paired <= 300
    assert sum(one.generated_tokens for one in outcome.totals) == sum(requests.output) + paired
    assert all(leases == 0 for leases in run.open_leases())
    assert all(sample.kv_usage == [0.0] * 4 for sample in outcome.samples[:1])
    assert [engine.kv_usage for engine in run.engines] == [0.0] * 4


def test_pairs_leave_nothing_behind() -> None:
    """No request of a run is in memory after it."""
    gc.collect()
    simulate(Listed(poisson(200, 60.0)), Scenario(SPLIT))
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Open)]


def test_short_prompts_stay_where_they_are_decoded() -> None:
    """What is quick to prefill is not worth a transfer and a second request."""
    requests = simulate(Listed([job("short", 0.0, 1, blocks=5)]), Scenario(SPLIT)).requests
    assert requests.prefill[0] == -1


def test_the_first_token_waits_for_the_kv() -> None:
    """Over a slow link the first token comes when the prompt's KV has arrived, not before."""
    slow = tuple(msgspec.structs.replace(kind, link_bytes_per_second=2e9) for kind in SPLIT)
    jobs = [job(f"j{i}", 0.001 * i, i, blocks=100) for i in range(40)]
    requests = simulate(Listed(jobs), Scenario(slow)).requests
    seconds = jobs[0].request.tokens * KIND.kv_bytes_per_token / 2e9
    rows = [row for row in range(40) if requests.prefill[row] >= 0]
    assert len(rows) > 5
    arrived = sorted(requests.first[row] for row in rows)
    assert all(requests.first[row] - requests.at[row] > seconds for row in rows)
    assert arrived[-1] > len(rows) / 2 * seconds  # two links, one transfer after the other on each


def test_a_link_serves_one_transfer_after_the_other() -> None:
    """Out of one replica, and into one, transfers queue; between others they do not."""
    links = Links([_of(Role.BOTH, link_bytes_per_second=131072.0 * 1000)] * 4)
    assert links.send(0, 1, 1000, 0.0) == 1.0
    assert links.send(0, 2, 1000, 0.0) == 2.0
    assert links.send(3, 1, 1000, 0.0) == 2.0
    assert links.send(3, 0, 500, 5.0) == 5.5


def test_replicas_of_both_roles_stand_in() -> None:
    """One that does both prefills for others, and answers by itself."""
    requests = simulate(
        Listed(poisson(200, 120.0)), Scenario((_of(Role.PREFILL), _of(Role.BOTH), _of(Role.DECODE)))
    ).requests
    assert {0, 1, -1} >= set(requests.prefill)
    assert set(requests.replica) == {1, 2}


def test_fleets_that_cannot_be() -> None:
    """Somebody has to decode; and pairs are not shared between routers."""
    with pytest.raises(FleetError, match="answer nobody"):
        simulate(Listed([]), Scenario((_of(Role.PREFILL),)))
    with pytest.raises(FleetError, match="do not share"):
        simulate(Listed([]), Scenario(SPLIT, lateness=Lateness(routers=2, share_seconds=0.005)))
