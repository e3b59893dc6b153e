"""`kvroute compare`: policies side by side on the same requests."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console

from kvroute.scorers.plugins import PolicySpec, load_policy
from kvroute.simulator.commands.lists import names, numbers
from kvroute.simulator.commands.options import (
    fleet_of,
    fleet_options,
    jobs_option,
    jobs_or_cores,
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
from kvroute.simulator.commands.outputs import write
from kvroute.simulator.commands.processes import Runs, Stopped
from kvroute.simulator.commands.progress import INTERRUPTED, Bar, Interrupt
from kvroute.simulator.commands.rows import csv_of
from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.reports.compared import side_by_side
from kvroute.simulator.reports.json import described, document
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.search.case import Case, Source
from kvroute.simulator.search.comparison import Comparison, Question, Run, cases, gathered
from kvroute.simulator.search.load import Knee, Level, at_loads, find_knee, level

KNEE = "at the knee"
HEADINGS = {
    "below": "below the knee",
    "at": "at the knee",
    "beyond": "beyond the knee: saturated, only the order means anything",
}


@click.command()
@workload_options
@fleet_options
@click.option(
    "--policies", "-p", default="all", show_default=True, callback=names,
    help="Names with commas between, or all. The first one is what the others are compared to.",
)  # fmt: skip
@click.option(
    "--policy-config",
    type=click.Path(exists=True, dir_okay=False),
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
    source = source_of(*(options[name] for name in ("workload", "seed", "requests", "rate", "speedup")))
    policies = _policies(options)
    kinds = fleet_of(options["preset"], options["replicas"], options["cache_tokens"])
    scenario = scenario_of(kinds, policies[0][1], options)
    slo = slo_of(options["slo"])
    given = [name for name in ("rates", "speedups", "loads") if options[name]]
    if len(given) > 1:
        raise SimulatorError(f"--{given[0]} and --{given[1]} both say what loads there are; give one of them")
    source.load()
    made: dict[str, Summary] = {}
    with Interrupt() as interrupt, Bar("comparing", None, quiet=options["quiet"]) as bar:

        def done(case: Case, summary: Summary) -> None:
            made[case.label] = summary
            bar.step(case.label)

        stopped = False
        knee: Knee | None = None
        question: Question | None = None
        try:
            with Runs(jobs_or_cores(options["jobs"]), done, interrupt) as runs:
                if options["loads"]:
                    knee = find_knee(source, scenario, runs, policies[0][0])
                levels = _levels(options, source, knee)
                seeds = [options["seed"] + i for i in range(options["seeds"])]
                question = Question(source, scenario, policies, levels, seeds, None if slo is None else str(slo), knee)
                asked = [case for _, _, of_cell in cases(question) for case in of_cell]
                made.clear()
                bar.expect(len(asked))
                runs(asked)
        except Stopped:
            stopped = True
        if question is None:
            click.echo("kvroute: stopped while looking for the knee: nothing is known yet", err=True)
        else:
            comparison, rows = gathered(question, made)
            _tell(comparison, rows, scenario_document(options, described(scenario)), options, asked=len(asked))
    if stopped:
        sys.exit(INTERRUPTED)


def scenario_document(options: dict[str, Any], scenario: dict[str, Any]) -> dict[str, Any]:
    """What all runs have in common: the scenario without what differs between them."""
    return {name: part for name, part in scenario.items() if name not in ("policy", "seed")}


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


def _tell(
    comparison: Comparison, runs: list[Run], scenario: dict[str, Any], options: dict[str, Any], *, asked: int
) -> None:
    if options["json_path"] is not None:
        write(options["json_path"], document({"scenario": scenario, "comparison": comparison}))
    if options["csv_path"] is not None:
        write(options["csv_path"], csv_of([(run.level.name, run.policy, run.summary) for run in runs]))
    if options["quiet"] or str(options["json_path"]) == "-":
        return
    console = Console()
    if comparison.unfinished:
        console.print(f"stopped early, {len(runs)} of {asked} runs made", style="bold yellow")
    _print(comparison, console)


def _print(comparison: Comparison, console: Console) -> None:
    """One table a load, those below, at and beyond the knee apart."""
    fleet = f"{comparison.replicas} replica" + ("" if comparison.replicas == 1 else "s")
    console.print(f"[bold]{comparison.workload}[/bold] on {fleet}, {len(comparison.seeds)} seeds", highlight=False)
    if comparison.seeds_change == "dice" and len(comparison.seeds) > 1:
        console.print(
            "The trace is the same for every seed; only the router's dice differ: intervals do not speak of other"
            " days' traffic.",
            style="yellow",
        )
    if comparison.knee is not None:
        what = "req/s" if comparison.knee.knob == "rate" else "times the trace's speed"
        console.print(f"The knee with {comparison.knee.policy} is at {comparison.knee.at:g} {what}.", highlight=False)
    for regime, heading in HEADINGS.items():
        for row in comparison.rows:
            if row.regime == regime:
                console.print()
                title = f"{row.level.name} ({heading})"
                console.print(side_by_side(row.cells, title=title, reference=comparison.reference))
