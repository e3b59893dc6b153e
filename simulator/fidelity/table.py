"""The comparison of real and simulated runs, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvroute.simulator.fidelity.measures import Measure
from kvroute.simulator.fidelity.reproduce import Coefficient, Result

_UNITS = {
    "c0": (1e3, "ms"),
    "c1": (1e6, "us"),
    "c2": (1e9, "ns"),
    "c3": (1e6, "us"),
    "c4": (1e9, "ns"),
    "c5": (1e9, "ns"),
}


def show(results: Sequence[Result], console: Console) -> None:
    """One table a run: each measure's real value, and its error in every trial."""
    for result in results:
        console.print(_table(result))
        for trial in result.trials:
            told = "  ".join(f"{name} {written(name, one)}" for name, one in trial.coefficients.items())
            console.print(f"  [dim]{escape(trial.split)}:[/] {told}", highlight=False)
        console.print(f"  [dim]KV blocks: {result.limits.blocks}, {escape(result.capacity)}[/]", highlight=False)
        for note in result.notes:
            console.print(f"  [yellow]{escape(note)}[/]", highlight=False)
        console.print()


def _table(result: Result) -> Table:
    table = Table(
        title=f"{result.name}: {result.requests} requests, {result.model}, TP {result.tensor_parallel}",
        title_justify="left",
    )
    table.add_column("measure")
    table.add_column("real", justify="right")
    for trial in result.trials:
        table.add_column(trial.split, justify="right")
    table.add_column("goal", justify="right")
    table.add_column("")
    for name, worst in result.metrics.items():
        errors = [_error(trial.metrics.get(name)) for trial in result.trials]
        goal = "" if worst.goal is None else f"{worst.goal:.0%}"
        met = "" if worst.met is None else "[green]met[/]" if worst.met else "[red]missed[/]"
        table.add_row(name, f"{worst.real:.4g}", *errors, goal, met)
    return table


def _error(measure: Measure | None) -> str:
    if measure is None:
        return ""
    text = f"{measure.error:+.1%}"
    return f"[red]{text}[/]" if measure.met is False else text


def written(name: str, one: Coefficient) -> str:
    """A coefficient and its standard error in a handy unit."""
    factor, unit = _UNITS[name]
    error = "?" if one.error is None else f"{one.error * factor:.2g}"
    return f"{one.value * factor:.3g}±{error} {unit}"
