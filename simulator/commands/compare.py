"""`kvroute compare`: policies side by side on the same requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from kvroute.scorers.plugins import PolicySpec, load_policy
from kvroute.simulator.commands.lists import names, numbers
from kvroute.simulator.commands.options import (
    fleet_options,
    jobs_option,
    output_options,
    policy_names,
    policy_of,
    router_options,
    scenario_of,
    slo_of,
    source_of,
    told,
    workload_options,
)
from kvroute.simulator.commands.outputs import Outputs
from kvroute.simulator.commands.rows import csv_of
from kvroute.simulator.commands.work import Work
from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.latency.fleets import parse_fleet
from kvroute.simulator.reports.compared import side_by_side
from kvroute.simulator.reports.html import Run, Together, page
from kvroute.simulator.reports.json import described, document
from kvroute.simulator.reports.terminal import terminal
from kvroute.simulator.search.case import Source
from kvroute.simulator.search.comparison import Comparison, Question, gathered
from kvroute.simulator.search.comparison import compare as compared
from kvroute.simulator.search.curves import curve_of_comparison
from kvroute.simulator.search.load import UNITS, Knee, Level, at_loads, find_knee, level
from kvroute.simulator.search.sent import warnings

HEADINGS = {
    "below": "Below the knee",
    "at": "At the knee",
    "beyond": "Beyond the knee: saturated, so only the order means anything",
}
SAME_TRACE = (
    "The trace is the same for every seed; only the router's dice differ: intervals do not speak of other days'"
    " traffic. A trace with sample=0.8 has other sessions for each seed."
)


@click.command()
@workload_options
@fleet_options
@click.option(
    "--policies", "-p", default="all", show_default=True, callback=names,
    help="Names with commas between, or all. The first one is what the others are compared to.",
)  # fmt: skip
@click.option(
    "--policy-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="One more policy: YAML, as kvroute serve --config takes it.",
)
@click.option("--rates", callback=numbers, help="Loads as requests per second, with commas between.")
@click.option("--speedups", callback=numbers, help="Loads as speedups of the workload's time, with commas between.")
@click.option(
    "--loads", callback=numbers, help="Loads relative to the knee, which is looked for first: 0.5,0.8,1.0,1.2."
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How many, from --seed on.")
@click.option("--slo", help="Such as ttft_p90<2s,tpot_p90<50ms: also compares goodput.")
@router_options
@jobs_option
@output_options("run")
@told
def compare(**options: Any) -> None:
    """Compare policies at several loads and seeds: the same requests for all, paired differences to the first."""
    source = source_of(options)
    policies = _policies(options)
    kinds = parse_fleet(options["replicas"], options["preset"], options["cache_tokens"])
    scenario = scenario_of(kinds, policies[0][1], options)
    slo = slo_of(options["slo"])
    given = [name for name in ("rates", "speedups", "loads") if options[name]]
    if len(given) > 1:
        raise SimulatorError(f"--{given[0]} and --{given[1]} both say what loads there are; give one of them")
    source.load()
    work = Work("comparing", options)
    question: Question | None = None
    with work:
        knee = find_knee(source, scenario, work, policies[0][0]) if options["loads"] else None
        levels = _levels(options, source, knee)
        seeds = [options["seed"] + i for i in range(options["seeds"])]
        question = Question(source, scenario, policies, levels, seeds, None if slo is None else str(slo), knee)
        compared(question, work)
    if question is None:
        click.echo("kvroute: stopped while looking for the knee: nothing is known yet", err=True)
    else:
        _tell(question, work, options)
    work.end()


def _policies(options: dict[str, Any]) -> list[tuple[str, PolicySpec]]:
    """Name and spec of each policy, each loaded once to see that it can be."""
    chosen = options["policies"]
    found = [(name, PolicySpec(name)) for name in (policy_names() if chosen == ["all"] else chosen)]
    for _, spec in found:
        load_policy(spec)
    if options["policy_config"] is not None:
        found.append((str(options["policy_config"]), policy_of(None, options["policy_config"])))
    return found


def _levels(options: dict[str, Any], source: Source, knee: Knee | None) -> list[Level]:
    """The loads, ascending; none asked for: as the workload has it."""
    if knee is not None:
        return at_loads(knee, options["loads"])
    if options["rates"]:
        return [level("rate", rate) for rate in sorted(options["rates"])]
    if options["speedups"]:
        return [level("speedup", speedup) for speedup in sorted(options["speedups"])]
    if source.rate is not None:
        return [level("rate", source.rate)]
    return [Level("as the workload has it" if source.speedup == 1.0 else f"speedup {source.speedup:g}")]


def _tell(question: Question, work: Work, options: dict[str, Any]) -> None:
    """Files first, so that a table on the screen means that they are there."""
    comparison, runs = gathered(question, work.summaries())
    outputs = Outputs(options)
    common = {name: part for name, part in described(question.scenario).items() if name not in ("policy", "seed")}
    outputs.json(lambda: document({"scenario": common, "comparison": comparison}))
    outputs.csv(lambda: csv_of([(run.level.name, run.policy, run.summary) for run in runs]))
    outputs.html(lambda: _page(comparison, work))
    if not outputs.shown:
        return
    console = terminal()
    if comparison.unfinished:
        asked = len(question.levels) * len(question.policies) * len(question.seeds)
        console.print(f"stopped early, {len(runs)} of {asked} runs made", style="bold yellow")
    _print(comparison, console)
    for warning in warnings([(one.case, one.summary) for one in work.made()]):
        console.print(warning, style="yellow", highlight=False)
    outputs.told(console)


def _page(comparison: Comparison, work: Work) -> str | None:
    """In detail: the runs of the highest load that the reference was not saturated at, with the first seed."""
    rows = [row for row in comparison.rows if row.regime != "beyond"] or comparison.rows
    runs = []
    for row in rows[-1:]:
        for one in row.cells:
            made = work.find(f"{one.policy} at {row.level.name}, seed ")
            if made is not None:
                runs.append(Run(one.policy, made.case.scenario, made.summary, made.detail))
    if not runs:
        return None
    notes = [f"Plots of single runs are at {rows[-1].level.name}, with seed {comparison.seeds[0]}."]
    if comparison.seeds_change == "dice" and len(comparison.seeds) > 1:
        notes.append(SAME_TRACE)
    seeds = comparison.seeds
    together = Together(
        [(row.level.name, row.cells) for row in comparison.rows],
        comparison.rows.index(rows[-1]),
        comparison.reference,
        f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}",
        f"seed {seeds[0]} alone",
    )
    return page(f"Policies on {comparison.workload}", runs, curve_of_comparison(comparison), notes, together=together)


def _print(comparison: Comparison, console: Console) -> None:
    """One table a load, those below, at and beyond the knee apart."""
    fleet = f"{comparison.replicas} replica" + ("" if comparison.replicas == 1 else "s")
    console.print(f"[bold]{comparison.workload}[/bold] on {fleet}, {len(comparison.seeds)} seeds", highlight=False)
    if comparison.seeds_change == "dice" and len(comparison.seeds) > 1:
        console.print(SAME_TRACE, style="yellow")
    if comparison.knee is not None:
        knee = comparison.knee
        console.print(f"The knee with {knee.policy} is at {knee.at:g} {UNITS[knee.knob]}.", highlight=False)
    for regime, heading in HEADINGS.items():
        rows = [row for row in comparison.rows if row.regime == regime]
        if rows:
            console.print()
            console.print(heading, style="bold underline")
        for row in rows:
            console.print(side_by_side(row.cells, title=row.level.name, reference=comparison.reference))
