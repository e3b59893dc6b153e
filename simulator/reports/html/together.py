"""Many runs of each policy as one: means over all seeds or pieces, as the terminal tells them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import msgspec

from kvroute.simulator.reports.cells import Cell, Figure
from kvroute.simulator.reports.html.numbers import REGIMES, figure_text, table
from kvroute.simulator.reports.html.tiles import JUDGED, Tile
from kvroute.simulator.reports.measures import better

ROWS = (
    ("TTFT mean", "ttft_mean"), ("TTFT p50", "ttft_p50"), ("TTFT p90", "ttft_p90"), ("TTFT p99", "ttft_p99"),
    ("TPOT p90", "tpot_p90"), ("E2E mean", "e2e_mean"), ("E2E p90", "e2e_p90"), ("queueing p90", "queue_p90"),
    ("completed/s", "throughput_requests"), ("cached", "cached_token_rate"), ("balance of work", "balance_work"),
    ("goodput/s", "goodput"), ("good", "slo_share"),
)  # fmt: skip


class Together(msgspec.Struct, frozen=True):
    """What a question found: the page's answer, where plots show but one run of each policy."""

    levels: list[tuple[str, list[Cell]]]
    """(load, policies) by ascending load."""
    shown: int
    """Which of them the headline and the plots are of."""
    reference: str
    """The policy that differences are to."""
    over: str
    """What means are taken over: `3 seeds`."""
    alone: str
    """Which of them the plots are: `seed 0 alone`."""

    @property
    def cells(self) -> list[Cell]:
        """Those of the headline."""
        return self.levels[self.shown][1]


def tiles(found: Together) -> list[Tile]:
    """Who was best at what on the mean, and whether that is shown."""
    made = [tile for name, measure, _ in JUDGED if (tile := _tile(name, measure, found)) is not None]
    runs = sum(cell.runs for cell in found.cells)
    saturated = sum(cell.saturated_runs for cell in found.cells)
    if saturated:
        made.append(Tile("Saturated", f"{saturated} of {runs} runs", "work came in faster than it was done", "bad"))
    return made


def _tile(name: str, measure: str, found: Together) -> Tile | None:
    known = [(cell.figures[measure], cell) for cell in found.cells if measure in cell.figures]
    if not known:
        return None
    ordered = sorted(known, key=lambda one: -better(measure) * one[0].mean)
    (best, winner), (worst, loser) = ordered[0], ordered[-1]
    value = figure_text(measure, best.mean, best.half_width)
    if best.mean == worst.mean:
        return Tile(name, value, "the same for all" if len(known) > 1 else winner.policy)
    said = f"best: {winner.policy}{_shown(winner, loser, measure, found.reference)}"
    return Tile(name, value, f"{said} · worst: {loser.policy}, {figure_text(measure, worst.mean, worst.half_width)}")


def _shown(winner: Cell, loser: Cell, measure: str, reference: str) -> str:
    """Whether the best is told apart from the reference; where it is the reference, from the worst."""
    judged, other = (loser, loser.policy) if winner.policy == reference else (winner, reference)
    difference = judged.figures[measure].difference
    if difference is None or difference.half_width is None:
        return ""
    return f" (not told apart from {other})" if difference.verdict == "not shown" else f" (shown against {other})"


def section(found: Together) -> str:
    """A table a load, that of the headline first and open."""
    order = [found.shown, *(place for place in range(len(found.levels)) if place != found.shown)]
    first, *others = (_table(*found.levels[place], found) for place in order)
    more = f"<details><summary>Other loads</summary>{''.join(others)}</details>" if others else ""
    text = (
        f"Means over {found.over}, ± 95 % confidence; in brackets the difference to {found.reference}, ~ where it is"
        f" not shown. The tiles above say the same; plots below are of one run of each: {found.alone}."
    )
    return (
        f'<section id="together"><h2>{escape(f"Over {found.over}")}</h2><p class="how">{escape(text)}</p>'
        f"{first}{more}</section>"
    )


def _table(level: str, cells: Sequence[Cell], found: Together) -> str:
    rows = [["knee", *(_knee(cell) for cell in cells)]]
    for name, measure in ROWS:
        if any(measure in cell.figures for cell in cells):
            rows.append([name, *(_cell(measure, cell.figures.get(measure)) for cell in cells)])
    return table(["", *(cell.policy for cell in cells)], rows, f"{level}: mean over {found.over}")


def _knee(cell: Cell) -> str:
    some = f" ({cell.saturated_runs} of {cell.runs})" if 0 < cell.saturated_runs < cell.runs else ""
    return REGIMES[cell.regime] + some


def _cell(measure: str, figure: Figure | None) -> str:
    if figure is None:
        return "-"
    said = figure_text(measure, figure.mean, figure.half_width)
    difference = figure.difference
    if difference is None or difference.relative is None:
        return said
    mark = "~" if difference.verdict == "not shown" else ""
    return f"{said} ({mark}{difference.relative:+.1%})"
