"""What searches found, as curves."""

from __future__ import annotations

import msgspec

from kvroute.simulator.reports.cells import cell
from kvroute.simulator.reports.html.curve import RATE, REPLICAS
from kvroute.simulator.reports.summary import summarise
from kvroute.simulator.search.capacity import Answer, Plan, Point
from kvroute.simulator.search.comparison import Comparison, Row
from kvroute.simulator.search.curves import curve_of_comparison, curve_of_plan
from kvroute.simulator.search.load import Knee, level
from kvroute.simulator.slo import Slo
from tests.simulator.reports.outcomes import queue, scenario

SLO = Slo.parse("ttft_p90<2s,tpot_p90<50ms")


def test_a_comparison_of_several_loads_is_a_curve() -> None:
    """Policies over load, with the knee; a single load is none."""
    low, high = (
        [cell(name, [summarise(queue(rho, 400, 1), scenario(1, name), SLO)], None) for name in ("a", "b")]
        for rho in (0.5, 1.5)
    )
    rows = [Row(level("rate", 1.0), "below", low), Row(level("rate", 3.0), "beyond", high)]
    knee = Knee("rate", 2.0, "a")
    told = Comparison("w", 1, "a", [1], "requests", str(SLO), knee, rows)
    found = curve_of_comparison(told)
    assert found is not None
    assert [(one.label, [(point.x, point.regime) for point in one.points]) for one in found.series] == [
        ("a", [(1.0, "below"), (3.0, "beyond")]), ("b", [(1.0, "below"), (3.0, "beyond")]),
    ]  # fmt: skip
    assert found.axis == RATE
    assert found.marks == [(2.0, "knee of a")]
    assert found.slo == SLO
    assert curve_of_comparison(msgspec.structs.replace(told, rows=rows[:1])) is None


def test_a_plan_is_a_curve_over_replicas_with_its_answer() -> None:
    """Each make of fleet is a line."""
    points = [
        Point(
            replicas=count,
            load=None,
            met=count > 2,
            saturated=count <= 2,
            regime="below" if count > 2 else "beyond",
            requests=100,
            sent=10.0,
            figures={"ttft_p90": 1.0 / count},
        )
        for count in (1, 2, 3)
    ]
    answer = Answer("h100", 1000, 3, None, None, None, True, False, points)
    found = curve_of_plan(Plan("w", "latency", str(SLO), None, 1.0, [0], [answer], "h100"))
    assert found.axis == REPLICAS
    assert [(point.x, point.met) for point in found.series[0].points] == [(1.0, False), (2.0, False), (3.0, True)]
    assert found.marks == [(3.0, "enough: 3")]
