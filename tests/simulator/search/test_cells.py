"""Several seeds summed up as one cell."""

from __future__ import annotations

import pytest

from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.reports.cells import cell, difference
from kvroute.simulator.reports.measures import COMPARED, HIGHER, JUDGED, LOWER, better, check_measure, value
from kvroute.simulator.search.case import Source
from kvroute.simulator.search.seeds import seed_changes
from tests.simulator.search.summaries import summary


def test_the_worst_run_says_where_a_cell_stands() -> None:
    """One saturated run of three is told, and how many there were."""
    runs = [summary(regime="below"), summary(regime="beyond", saturated=True, regime_reason="too much"), summary()]
    found = cell("p", runs, None)
    assert (found.regime, found.regime_reason, found.saturated_runs, found.runs) == ("beyond", "too much", 1, 3)


def test_differences_know_which_way_is_better() -> None:
    """Less time is better, more goodput is."""
    faster = difference("ttft_p90", [1.0, 2.0, 3.0], [1.5, 2.5, 3.5])
    richer = difference("goodput", [1.0, 2.0, 3.0], [1.5, 2.5, 3.5])
    assert faster is not None
    assert richer is not None
    assert (faster.verdict, richer.verdict) == ("better", "worse")
    assert faster.relative == pytest.approx(-0.2)


def test_a_cell_against_the_reference() -> None:
    """Pair by pair; the slo's figures are there where one was asked for."""
    base = [summary(ttft_p90=1.0), summary(ttft_p90=3.0), summary(ttft_p90=2.0)]
    own = [summary(ttft_p90=1.1), summary(ttft_p90=3.1), summary(ttft_p90=2.1)]
    figure = cell("p", own, base).figures["ttft_p90"]
    assert figure.difference is not None
    assert figure.difference.mean == pytest.approx(0.1)
    assert figure.difference.verdict == "worse"
    assert "goodput" in cell("p", own, base).figures
    assert "goodput" not in cell("p", [summary(slo_met=None, goodput=None)], None).figures


def test_every_measure_is_found_in_a_summary() -> None:
    """By its name; one that is no measure is refused with those that are."""
    for name in (*COMPARED, *JUDGED, *HIGHER, *LOWER):
        assert isinstance(value(summary(), check_measure(name)), float)
    assert (better("ttft_p90"), better("goodput"), better("preemptions")) == (-1, 1, -1)
    with pytest.raises(SimulatorError, match=r"no measure 'ttft_p77'.*ttft_p90"):
        check_measure("ttft_p77")


def test_whether_seeds_change_anything() -> None:
    """Of a generator they do."""
    assert seed_changes(Source("shared-prefix", requests=10))
