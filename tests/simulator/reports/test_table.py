"""What is printed on the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from kvroute.simulator.reports.cells import Cell, cell
from kvroute.simulator.reports.compared import side_by_side
from kvroute.simulator.reports.summary import summarise
from kvroute.simulator.reports.table import one_run, speed
from kvroute.simulator.slo import Slo
from tests.simulator.reports.outcomes import outcome, queue, scenario

SLO = Slo.parse("ttft_p90<2s,tpot_p90<50ms,e2e_p99<30s")


def printed(renderable: RenderableType, width: int = 100) -> str:
    """As it comes out of a pipe of that width."""
    file = io.StringIO()
    Console(file=file, width=width).print(renderable)
    return file.getvalue()


def cells(seeds: int) -> list[Cell]:
    """Two policies with distinct service times, of which one is saturated."""
    loads = (("latency", 0.6), ("a-policy-with-a-long-name", 0.62), ("overloaded", 1.4))
    runs = [
        (name, [summarise(queue(rho, 800, seed, replicas=4), scenario(4, name), SLO) for seed in range(seeds)])
        for name, rho in loads
    ]
    return [cell(name, found, runs[0][1] if place else None) for place, (name, found) in enumerate(runs)]


@pytest.mark.parametrize("width", [100, 80])
def test_a_run_fits_the_width_without_colours(width: int) -> None:
    """No escape codes in a pipe, no line beyond the edge, nothing cut off."""
    text = printed(one_run(summarise(queue(0.7, 500, 1, replicas=4), scenario(4), SLO)), width)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for said in ("TTFT", "p99", "queueing", "below the knee", "SLO met", "replica-3", "goodput"):
        assert said in text


def test_saturation_is_called_so() -> None:
    """In capitals, with the reason."""
    text = printed(one_run(summarise(queue(1.5, 1000, 1), scenario())))
    assert "SATURATED: each second of arrivals adds" in text


def test_a_run_without_answers_is_printed_too() -> None:
    """Dashes where there is nothing to measure."""
    text = printed(one_run(summarise(outcome([(0.0, None, None, None)], refused=1), scenario())))
    assert "0 of 1, 1 refused" in text


@pytest.mark.parametrize("seeds", [1, 3])
def test_policies_side_by_side_fit_100_columns(seeds: int) -> None:
    """Every policy in full, saturated ones called so, confidence with several seeds only."""
    text = printed(side_by_side(cells(seeds), title="three policies", reference="latency"))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "SATURATED" in text
    assert ("±" in text) is (seeds > 1)
    assert ("not told apart from latency" in text) is (seeds > 1)


@pytest.mark.parametrize("width", [60, 80, 90])
def test_a_narrow_terminal_gets_fewer_columns_and_no_cut_ones(width: int) -> None:
    """The policy, its p90 and where it stands are never left out."""
    text = printed(side_by_side(cells(3), reference="latency"), width)
    assert max(map(len, text.splitlines())) <= width
    assert "a-policy-with-a-long-name"[:24] in text
    assert "…" not in text
    assert "SATURATED" in text
    assert "p90" in text
    assert "columns more on a wider terminal" in " ".join(text.split())


def test_the_best_is_marked() -> None:
    """A star for the least TTFT, none for a worse one."""
    lines = printed(side_by_side(cells(1), reference="latency")).splitlines()
    ttft = {line.split()[0]: line.split()[1] for line in lines if line.startswith((" latency", " overloaded"))}
    assert ttft["latency"].endswith("*")
    assert not ttft["overloaded"].endswith("*")


def test_speed_is_told_apart_from_results() -> None:
    """Requests per CPU-second and the share of decisions."""
    assert "400 a second; 50.0 % of it in decisions" in speed(queue(0.5, 1000, 1))
