"""The comparison of real and simulated runs, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvroute.simulator.fidelity.calibration import Calibration
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
    """One table a run: each measure real and simulated over the whole run, and its error in every trial."""
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
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("measure", no_wrap=True)
    for head in ("real", "simulated", "off by"):
        table.add_column(head, justify="right", no_wrap=True)
    for trial in result.trials:
        table.add_column(_SHORT.get(trial.split, trial.split), justify="right", no_wrap=True)
    table.add_column("goal", no_wrap=True)
    for name, worst in result.worst.items():
        whole = result.metrics.get(name)
        own = (
            ["", "", ""] if whole is None else [_value(name, whole.real), _value(name, whole.simulated), _error(whole)]
        )
        errors = [_error(trial.metrics.get(name)) for trial in result.trials]
        goal = "" if worst.goal is None else f"{worst.goal:.0%}"
        met = "" if worst.met is None else "[green]met[/]" if worst.met else "[red]missed[/]"
        table.add_row(name, *own, *errors, f"{goal:>3} {met}".strip())
    return table


_SHORT = {"alternate-a": "odd>even", "alternate-b": "even>odd", "early-late": "1st>2nd", "late-early": "2nd>1st"}
"""Columns of the splits: fitted on the one half, judged on the other."""


def _value(name: str, value: float) -> str:
    return f"{value:.4g} /s" if name.startswith("throughput") else f"{value:.4g} s"


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


def show_calibration(found: Calibration, console: Console) -> None:
    """The coefficients, and the errors on requests that were held out."""
    table = Table(title=f"{found.log}: {found.requests} requests, {found.intervals} intervals", title_justify="left")
    for name in ("coefficient", "value", ""):
        table.add_column(name)
    for name, one in found.coefficients.items():
        table.add_row(name, written(name, one), "" if found.told[name] else "[yellow]not told by the log[/]")
    ingress = found.kind.ingress.seconds
    table.add_row("ingress", f"{ingress * 1e3:.3g} ms", "")
    console.print(table)
    scores = Table(title="held out: the worst of " + str(len(found.held_out)) + " trials", title_justify="left")
    for name in ("measure", "real", "simulated", "error", "goal"):
        scores.add_column(name, justify="left" if name == "measure" else "right")
    for name, measure in found.metrics.items():
        goal = "" if measure.goal is None else f"{measure.goal:.0%}"
        scores.add_row(name, f"{measure.real:.4g}", f"{measure.simulated:.4g}", _error(measure), goal)
    console.print(scores)
    for note in found.notes:
        console.print(f"  [yellow]{escape(note)}[/]", highlight=False)
