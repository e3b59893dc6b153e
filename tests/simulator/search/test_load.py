"""Loads, and where the knee is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.case import Case, Source
from kvroute.simulator.search.load import at_loads, find_knee, knob_of, level
from tests.simulator.search.summaries import summary

SOURCE = Source("shared-prefix", requests=20)
FLEET = Scenario((Kind(),))


@pytest.mark.parametrize("border", [0.7, 37.0, 900.0])
def test_the_knee_is_where_saturation_begins(border: float) -> None:
    """Whatever the workload's own rate; found to a few percent."""

    def evaluate(cases: Sequence[Case]) -> list[Summary]:
        return [
            summary(
                saturated=(case.source.rate or 10.0) > border, throughput_requests=min(border, case.source.rate or 10.0)
            )
            for case in cases
        ]

    knee = find_knee(SOURCE, FLEET, evaluate, "latency")
    assert knee.knob == "rate"
    assert border * 0.94 <= knee.at <= border
    assert [level.rate for level in at_loads(knee, [1.0, 0.5])] == pytest.approx([knee.at / 2, knee.at])


@pytest.mark.parametrize("saturated", [True, False])
def test_a_fleet_that_is_always_saturated_or_never_has_no_knee(saturated: bool) -> None:
    """That is told."""
    with pytest.raises(WorkloadError, match="no knee"):
        find_knee(SOURCE, FLEET, lambda cases: [summary(saturated=saturated) for _ in cases], "latency")


def test_what_sets_the_load() -> None:
    """Clients of a closed loop, else a rate."""
    closed = Source("shared-prefix,concurrency=16,input=300", requests=20)
    assert (knob_of(SOURCE), knob_of(closed)) == ("rate", "concurrency")
    assert level("concurrency", 20.4).of(closed).spec == "shared-prefix,concurrency=20,input=300"
    assert level("rate", 3.0).of(SOURCE).rate == 3.0
    assert level("speedup", 2.0).of(SOURCE).speedup == 2.0


def test_the_knee_of_a_closed_loop_is_a_number_of_clients() -> None:
    """A whole one."""

    def evaluate(cases: Sequence[Case]) -> list[Summary]:
        return [summary(saturated=int(case.source.spec.rpartition("=")[2]) > 7) for case in cases]

    knee = find_knee(Source("shared-prefix,concurrency=40", requests=20), FLEET, evaluate, "latency")
    assert (knee.knob, knee.at) == ("concurrency", 7.0)
