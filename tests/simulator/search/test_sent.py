"""What was sent beside what was asked for."""

from __future__ import annotations

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.capacity import Planner, Variant
from kvroute.simulator.search.case import Case, Source, run_case
from kvroute.simulator.search.sent import asked_rate, sent, warnings
from tests.simulator.search.summaries import summary


def test_sessions_that_have_hardly_begun_are_told_with_how_many_would_do() -> None:
    """A short run of conversations sends a tenth of its rate."""
    source = Source("chat", requests=300, rate=60.0)
    case = Case("chat", source, Scenario((Kind(),) * 2))
    run = run_case(case)[1]
    found = sent(source, run)
    assert found is not None
    assert found.too_little
    assert found.enough is not None
    assert found.enough > 10_000
    (line,) = warnings([(case, run)])
    assert "not the 60" in line
    assert f"--requests {found.enough}" in line


def test_what_chance_explains_is_no_fault() -> None:
    """Nor a tenth, nor what a saturated fleet holds up."""
    source = Source("shared-prefix", rate=10.0)
    case = Case("a", source, Scenario((Kind(),)))
    for sends, requests, off in ((9.2, 10_000, False), (8.5, 10_000, True), (8.5, 100, False), (12.0, 10_000, True)):
        found = sent(source, summary(offered_rate=sends, requests=requests))
        assert found is not None
        assert found.off is off
    assert warnings([(case, summary(offered_rate=1.0, requests=10_000, saturated=True))]) == []


def test_the_rate_that_was_asked_for() -> None:
    """By the flag, else by the workload's option; time may run faster."""
    assert asked_rate(Source("chat,rate=5", speedup=2.0)) == 10.0
    assert asked_rate(Source("chat,rate=5", rate=3.0)) == 3.0
    assert asked_rate(Source("chat")) is None


def test_a_plan_is_refused_where_too_little_was_sent() -> None:
    """An SLO that is met by what was never sent says nothing."""
    source = Source("chat", requests=1500, rate=60.0)
    planner = Planner(
        source,
        Scenario((Kind(),)),
        (0,),
        "ttft_p90<1s",
        lambda cases: [summary(slo_met=True, offered_rate=7.0, requests=1500) for _ in cases],
    )
    with pytest.raises(WorkloadError, match=r"7\.00 requests/s were sent, not the 60\.0 asked for.*--requests"):
        planner.fewest(Variant("k", Kind()), 8)
