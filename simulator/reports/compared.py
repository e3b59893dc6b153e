"""Many runs side by side on the terminal: a row a policy (or fleet), a column a measure. Fits 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from kvroute.simulator.reports.cells import Cell, Figure
from kvroute.simulator.reports.measures import better
from kvroute.simulator.reports.table import STYLES
from kvroute.simulator.reports.units import digits, time_unit


class Column(NamedTuple):
    """One measure as it is shown."""

    measure: str
    head: str
    scale: float | None = None
    """By what it is multiplied; None: seconds, shown in the unit that fits."""


COLUMNS = (
    Column("ttft_mean", "TTFT\nmean"),
    Column("ttft_p90", "TTFT\np90"),
    Column("ttft_p99", "TTFT\np99"),
    Column("tpot_p90", "TPOT\np90"),
    Column("e2e_mean", "E2E\nmean"),
    Column("cached_token_rate", "cached\n%", 100.0),
)
UNEVEN = Column("balance_work", "uneven\nmax/mean", 1.0)
GOODPUT = Column("goodput", "good\n/s", 1.0)


LEFT_OUT = ("ttft_p99", "e2e_mean", "balance_work", "tpot_p90", "goodput", "cached_token_rate", "ttft_mean")
"""Where the width does not do, in this order."""
MOST_LABEL = 24
"""Width of the first column [characters]."""


def side_by_side(
    cells: Sequence[Cell], *, title: str = "", reference: str = "", first: str = "policy", over: str = "seeds"
) -> RenderableType:
    """Rows side by side. The best of each column has a star.

    Args:
        cells: one a row, all of the same load and seeds.
        title: what all of them have in common.
        reference: the policy that the others are told apart from; "": none.
        first: what the rows are.
        over: what each row's means are taken over.
    """
    return SideBySide(cells, title, reference, first, over)


class SideBySide:
    """A table with as many columns as the width takes, rather than columns that are cut off."""

    def __init__(self, cells: Sequence[Cell], title: str, reference: str, first: str, over: str) -> None:
        self._cells = cells
        self._title = title
        self._reference = reference
        self._first = first
        self._over = over

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The widest that fits."""
        goodput = any("goodput" in cell.figures for cell in self._cells)
        columns = [*COLUMNS, GOODPUT if goodput else UNEVEN]
        table = self._table(columns)
        wide = options.update(max_width=1000)
        left_out = 0
        for measure in LEFT_OUT:
            if console.measure(table, options=wide).maximum <= options.max_width:
                break
            kept = [column for column in columns if column.measure != measure]
            left_out += len(columns) - len(kept)
            columns = kept
            table = self._table(columns)
        yield table
        said = legend(self._cells, self._reference, self._over)
        if left_out:
            said += f"; {left_out} columns more on a wider terminal"
        yield Text(said, style="dim")

    def _table(self, columns: Sequence[Column]) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=self._title or None, title_justify="left",
            title_style="bold",
        )  # fmt: skip
        table.add_column(f"\n{self._first}", overflow="fold", max_width=MOST_LABEL)
        shown = [_column(column, self._cells) for column in columns]
        for head, _ in shown:
            table.add_column(head, justify="right", no_wrap=True)
        table.add_column("\nknee", no_wrap=True)
        for place, cell in enumerate(self._cells):
            table.add_row(cell.policy, *(made[place] for _, made in shown), _regime(cell))
        return table


def _column(column: Column, cells: Sequence[Cell]) -> tuple[str, list[Text]]:
    """Head and cells."""
    figures = [cell.figures.get(column.measure) for cell in cells]
    means = [figure.mean for figure in figures if figure is not None]
    if not means:
        return column.head, [Text("- ")] * len(cells)
    scale, head = column.scale, column.head
    if scale is None:
        seconds, unit = time_unit(min(means))
        scale, head = 1.0 / seconds, f"{head} {unit}"
    best = max(means) if better(column.measure) > 0 else min(means)
    told = min(means) < max(means)
    return head, [_cell(figure, scale, told and figure is not None and figure.mean == best) for figure in figures]


def _cell(figure: Figure | None, scale: float, best: bool) -> Text:
    """The mean, and below it how sure it is."""
    if figure is None:
        return Text("- ")
    style = "bold" if best else ""
    mark = "*" if best else " "
    if figure.difference is not None and figure.half_width is not None:
        verdict = figure.difference.verdict
        style = f"{style} {'green' if verdict == 'better' else 'red' if verdict == 'worse' else ''}"
        mark = "~" if verdict == "not shown" and not best else mark
    text = Text(digits(figure.mean * scale) + mark, style=style.strip())
    if figure.half_width is not None:
        text.append(f"\n±{digits(figure.half_width * scale, 2)} ", style="dim not bold default")
    return text


def _regime(cell: Cell) -> Text:
    """The worst over the seeds."""
    text = Text("SATURATED" if cell.regime == "beyond" else cell.regime, style=STYLES[cell.regime])
    if 0 < cell.saturated_runs < cell.runs:
        text.append(f"\n{cell.saturated_runs} of {cell.runs}", style="dim not bold default")
    return text


def legend(cells: Sequence[Cell], reference: str, over: str = "seeds") -> str:
    """What the marks mean."""
    seeds = max((cell.runs for cell in cells), default=1)
    said = ["* best"]
    if seeds > 1:
        if reference and len(cells) > 1:
            said.append(f"~ not told apart from {reference}")
        said.append(f"± 95 % confidence over {seeds} {over}")
    said.append("knee: below it, at it, or SATURATED beyond it")
    return "; ".join(said)
