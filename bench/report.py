"""Tables of what was measured, with its ratios to nginx and to the best Rust cache-aware router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench import decision, goals
from bench.cases import CASES, Case
from bench.measure import Sample
from bench.summary import Row, best_peer, by_case

WIDTH = 120


def progress(case: Case, sample: Sample) -> str:
    """One line while it runs."""
    figure = sample.figure(case.figure)
    shown = f"{figure:,.1f}" if figure is not None else "-"
    errors = f", {sample.errors} ERRORS {sample.statuses}" if sample.errors else ""
    return f"{case.name:6} round {sample.round + 1} {sample.router:14} {shown:>12} {case.figure.value}{errors}"


def show(results: dict[str, Any]) -> None:
    """Print everything."""
    console = Console(width=WIDTH)
    for key, value in results["machine"].items():
        console.print(f"{key}: {value}", highlight=False, markup=False)
    for name, why in results["skipped"].items():
        console.print(f"skipped {name}: {why}", style="bold yellow", highlight=False, markup=False)
    made = by_case([Sample(**sample) for sample in results["samples"]])
    for case in CASES:
        if case.name in made:
            console.print(_table(case, made[case.name]))
    for name, found in results["memory"].items():
        console.print(_memory(name, found), highlight=False, markup=False)
    if results["decision"]:
        console.print("\n".join(decision.lines(results["decision"])), highlight=False, markup=False)
    for goal in goals.check(made, results["memory"].get("kvroute"), results["decision"]):
        console.print(str(goal), highlight=False, markup=False)


def _table(case: Case, made: Sequence[Row]) -> Table:
    nginx = next((row for row in made if row.router == "nginx"), None)
    peer = best_peer(case, made)
    title = f"{case.name}: {case.title}: {case.figure.value}; {'chunks' if case.stream else 'requests'} per second"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("router", no_wrap=True)
    headers = ("best", "median", "x nginx", "x Rust", "per s", "core%", "p50 ms", "p99 ms", "+p50 ms", "+p99 ms", "MB")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("errors", no_wrap=True, justify="right")
    for row in made:
        table.add_row(
            row.router,
            _number(row.best),
            _number(row.median),
            _ratio(row, nginx),
            _ratio(row, peer),
            _number(row.per_second),
            f"{row.load * 100:.0f}" if row.load is not None else "-",
            _milliseconds(row.p50),
            _milliseconds(row.p99),
            _milliseconds(row.added_p50),
            _milliseconds(row.added_p99),
            f"{row.resident / 1e6:.0f}" if row.resident else "-",
            str(row.errors) if row.errors else "",
        )
    return table


def _memory(name: str, found: dict[str, Any]) -> str:
    points = "  ".join(f"{point['requests']:,}: {point['resident'] / 1e6:.1f}" for point in found["points"])
    return (
        f"memory of {name} [MB]: idle {found['idle'] / 1e6:.1f}; "
        f"after ever-new prompts of {found['prompt_bytes']} bytes: {points}; errors: {found['errors']}"
    )


def _ratio(row: Row, to: Row | None) -> str:
    if to is None or not to.best or row.best is None:
        return "-"
    return f"{row.best / to.best:.2f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.2f}"
