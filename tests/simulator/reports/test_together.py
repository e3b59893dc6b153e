"""Pages of many runs: the answer is of all of them, plots of one."""

from __future__ import annotations

import re

import pytest

from kvroute.simulator.reports.cells import Cell, cell
from kvroute.simulator.reports.html import Run, Together, page
from kvroute.simulator.reports.html.together import tiles
from kvroute.simulator.reports.summary import Summary, summarise
from tests.simulator.reports.outcomes import outcome, scenario


def of_ttft(seconds: float) -> Summary:
    """A run whose requests all took so long to their first token."""
    rows = [(float(at), float(at), at + seconds, at + seconds + 1.0) for at in range(20)]
    return summarise(outcome(rows), scenario())


DEFAULT = [of_ttft(value) for value in (0.10, 0.50, 0.51, 0.52)]
TUNED = [of_ttft(value) for value in (0.12, 0.40, 0.40, 0.43)]
"""Worse in the first piece, better on the mean."""


def together() -> Together:
    """Both over all four pieces."""
    cells: list[Cell] = [cell("default", DEFAULT, None), cell("tuned", TUNED, DEFAULT)]
    return Together([("5 requests/s", cells)], 0, "default", "4 pieces", "piece 1 of 4")


def test_tiles_name_who_is_best_over_all_runs() -> None:
    """With the mean, its interval, and whether the difference is shown."""
    first = tiles(together())[0]
    assert first.name == "TTFT mean"
    assert first.value.startswith("337 ms ± ")
    assert first.about.startswith("best: tuned (not told apart from default) · worst: default, 407 ms")


def test_a_page_of_many_runs_says_which_its_plots_are() -> None:
    """Tiles and the first table are means; what is of one run is labelled so."""
    pytest.importorskip("plotly")
    runs = [Run.of("default", scenario(), DEFAULT[0], outcome([(0.0, 0.0, 0.1, 1.1)]))]
    runs.append(Run.of("tuned", scenario(), TUNED[0], outcome([(0.0, 0.0, 0.12, 1.12)])))
    html = page("Weights", runs, together=together())
    assert "best: default" not in html.partition('id="latency"')[0].partition("TTFT p90")[0]
    table = re.search(r"<caption>(.*?)</caption>", html)
    assert table is not None
    assert table[1] == "5 requests/s: mean over 4 pieces"
    assert "Latency: piece 1 of 4" in html
    assert "All runs, piece 1 of 4" in html
    assert "(~-17.2%)" in html
