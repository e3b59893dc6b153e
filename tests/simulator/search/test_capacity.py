"""Plans, on made-up fleets whose limits are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from kvroute.scorers.contract import Role
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.capacity import Planner, Variant, cheapest, chosen_label, fleet
from kvroute.simulator.search.case import Case, Source
from tests.simulator.search.summaries import summary

SOURCE = Source("shared-prefix", requests=20, rate=10.0)
VARIANT = Variant("k", Kind(), price=2.0)


def planner(meets: Callable[[Case], bool], seeds: Sequence[int] = (0,)) -> Planner:
    """Whose runs meet the SLO where that says so."""

    def evaluate(cases: Sequence[Case]) -> list[Summary]:
        return [summary(slo_met=meets(case), slo_share=0.95 if meets(case) else 0.2) for case in cases]

    return Planner(SOURCE, Scenario((Kind(),)), seeds, "ttft_p90<1s", evaluate)


def prefills(case: Case) -> int:
    """Replicas that only prefill."""
    return sum(kind.role is Role.PREFILL for kind in case.scenario.replicas)


def test_the_slo_must_hold_with_every_seed() -> None:
    """Seed 1 needs a replica more."""
    found = planner(lambda case: len(case.scenario.replicas) >= 5 + case.scenario.seed, seeds=(0, 1)).fewest(
        VARIANT, 64
    )
    assert (found.replicas, found.cost) == (6, 12.0)
    assert [point.replicas for point in found.curve] == sorted(point.replicas for point in found.curve)
    assert chosen_label(found) == "6 x k, seed "


@pytest.mark.parametrize(("best", "expected"), [(2, 2), (None, None)])
def test_roles_are_taken_where_they_save_replicas(best: int | None, expected: int | None) -> None:
    """All doing both needs 6; a split with 2 prefill replicas would do with 4."""

    def meets(case: Case) -> bool:
        count = len(case.scenario.replicas)
        return prefills(case) == best and count >= 4 if prefills(case) else count >= 6

    found = planner(meets).fewest(VARIANT, 64, roles=True)
    assert found.best_split is not None
    assert found.best_split.prefill == expected
    assert found.replicas == (4 if best else 6)
    assert found.cost == 2.0 * found.replicas


def test_the_greatest_load() -> None:
    """Of so many replicas, each good for 7 a second."""
    found = planner(lambda case: (case.source.rate or 0.0) <= 7.0 * len(case.scenario.replicas)).greatest(VARIANT, 3)
    assert found.load is not None
    assert 20.0 <= found.load <= 21.0
    assert (found.replicas, found.knob, found.bounded) == (3, "rate", False)


def test_a_saturated_run_meets_no_slo() -> None:
    """However early its first tokens are: they will not be, later."""

    def evaluate(cases: Sequence[Case]) -> list[Summary]:
        return [
            summary(slo_met=True, saturated=late, regime="beyond" if late else "at")
            for late in ((case.source.rate or 0.0) > 30.0 for case in cases)
        ]

    found = Planner(SOURCE, Scenario((Kind(),)), (0,), "ttft_p90<1s", evaluate).greatest(VARIANT, 3)
    assert found.load is not None
    assert 29.0 <= found.load <= 30.0
    assert all(point.met != point.saturated for point in found.curve)
    clients = msgspec.structs.replace(SOURCE, spec="shared-prefix,concurrency=8", rate=None)
    closed = Planner(clients, Scenario((Kind(),)), (0,), "ttft_p90<1s", lambda cases: [
        summary(slo_met=True, saturated=True, regime="beyond") for _ in cases
    ])  # fmt: skip
    assert closed.fewest(VARIANT, 4).replicas == 1


def test_an_answer_is_tried_again_with_more_requests() -> None:
    """Where short runs stand twice the load that longer ones do, the longer ones say what the answer is."""
    source = Source("shared-prefix", rate=10.0)

    def evaluate(cases: Sequence[Case]) -> list[Summary]:
        found = []
        for case in cases:
            longer = case.source.requests is not None
            takes = (7.0 if longer else 14.0) * len(case.scenario.replicas)
            fine = (case.source.rate or 0.0) <= takes
            sends = case.source.rate
            found.append(summary(slo_met=fine, offered_rate=sends, requests=case.source.requests or 1000))
        return found

    one = Planner(source, Scenario((Kind(),)), (0,), "ttft_p90<1s", evaluate)
    load = one.greatest(VARIANT, 3)
    assert load.load is not None
    assert 20.0 <= load.load <= 21.0
    assert load.requests is not None
    assert load.requests >= 4000
    assert chosen_label(load).endswith(" requests, seed ")
    assert not any(point.met for point in load.curve if (point.load or 0.0) > load.load)
    count = Planner(
        msgspec.structs.replace(source, rate=40.0), Scenario((Kind(),)), (0,), "ttft_p90<1s", evaluate
    ).fewest(VARIANT, 64)
    assert count.replicas == 6


def test_the_cheapest_by_price_and_by_what_it_takes() -> None:
    """Fewest replicas where no price is known; price per load where load was the question."""
    two = planner(lambda case: len(case.scenario.replicas) >= 2).fewest(VARIANT, 8)
    three = planner(lambda case: len(case.scenario.replicas) >= 3).fewest(Variant("cheap", Kind(), price=1.0), 8)
    assert cheapest([two, three]) == "cheap"
    assert cheapest([msgspec.structs.replace(one, cost=None) for one in (two, three)]) == "k"
    never = planner(lambda case: False).fewest(VARIANT, 8)
    assert cheapest([never]) is None
    assert never.replicas is None
    slow = planner(lambda case: (case.source.rate or 0) <= 5).greatest(VARIANT, 2)
    fast = planner(lambda case: (case.source.rate or 0) <= 9).greatest(VARIANT, 2)
    assert cheapest([slow, msgspec.structs.replace(fast, variant="fast")]) == "2 x fast"


def test_a_fleet_with_roles() -> None:
    """Prefill first, then decode."""
    roles = [kind.role for kind in fleet(Kind(), 5, 2)]
    assert roles == [Role.PREFILL] * 2 + [Role.DECODE] * 3


def test_a_search_that_was_stopped_tells_what_it_tried() -> None:
    """And one that has ended has nothing open."""

    class Stop(Exception):
        pass

    def meets(case: Case) -> bool:
        if len(case.scenario.replicas) > 4:
            raise Stop
        return False

    stopped = planner(meets)
    with pytest.raises(Stop):
        stopped.fewest(VARIANT, 64)
    so_far = stopped.so_far()
    assert so_far is not None
    assert [point.replicas for point in so_far.curve] == [1, 2, 4]
    ended = planner(lambda case: True)
    ended.fewest(VARIANT, 4)
    assert ended.so_far() is None
