"""`kvroute tune`: weights of the default policy for one workload."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml
from rich.console import Console

from kvroute import __version__
from kvroute.scorers.plugins import PolicySpec
from kvroute.simulator.commands.lists import numbers
from kvroute.simulator.commands.options import (
    COUNT,
    fleet_of,
    fleet_options,
    jobs_option,
    jobs_or_cores,
    output_options,
    router_options,
    scenario_of,
    slo_of,
    source_of,
    told,
    workload_options,
)
from kvroute.simulator.commands.outputs import WritablePath, write
from kvroute.simulator.commands.processes import Runs, Stopped
from kvroute.simulator.commands.progress import INTERRUPTED, Bar, Interrupt
from kvroute.simulator.commands.rows import csv_of
from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.reports.compared import side_by_side
from kvroute.simulator.reports.json import described, document
from kvroute.simulator.reports.summary import Summary, policy_name
from kvroute.simulator.search.case import Case, Source
from kvroute.simulator.search.cells import seed_changes
from kvroute.simulator.search.load import Level, level
from kvroute.simulator.search.measures import check_measure
from kvroute.simulator.search.weights import PLAIN, Held, Task, Tuner, Tuning, Weights, judge


@click.command()
@workload_options
@fleet_options
@click.option("--slo", help="What makes a request good: ttft_p90<2s,tpot_p90<50ms. Needed for goodput and slo_share.")
@click.option(
    "--objective",
    help="What to improve: goodput, slo_share, ttft_p90, e2e_mean, ... [default: slo_share, or ttft_p90 without --slo]",
)
@click.option(
    "--rates", callback=numbers, help="Loads to tune for together, as requests per second with commas between."
)
@click.option("--trials", type=click.IntRange(min=2), default=32, show_default=True, help="Candidates drawn at random.")
@click.option(
    "--train",
    type=click.FloatRange(0.1, 0.9),
    default=0.5,
    show_default=True,
    help="Share of the requests to search on; the rest judges.",
)
@click.option("--seeds", type=COUNT, default=3, show_default=True, help="How many, from --seed on.")
@click.option(
    "--out", type=WritablePath(), help="Write the policy as a configuration that kvroute serve --config takes."
)
@router_options
@jobs_option
@output_options("run")
@told
def tune(**options: Any) -> None:
    """Search scorer weights on the first part of a workload, and judge them on the rest."""
    source = source_of(*(options[name] for name in ("workload", "seed", "requests", "rate", "speedup")))
    kinds = fleet_of(options["preset"], options["replicas"], options["cache_tokens"])
    scenario = scenario_of(kinds, PolicySpec("latency"), options)
    slo = slo_of(options["slo"])
    objective = check_measure(options["objective"] or ("ttft_p90" if slo is None else "slo_share"))
    if slo is None and objective in ("goodput", "slo_share"):
        raise SimulatorError(f"--objective {objective} counts good requests: say with --slo what makes one good")
    task = Task(
        source=source,
        scenario=scenario,
        levels=_levels(options, source),
        seeds=[options["seed"] + i for i in range(options["seeds"])],
        objective=objective,
        slo=None if slo is None else str(slo),
        trials=options["trials"],
        train=options["train"],
        random=seed_changes(source),
    )
    made: list[tuple[str, str, Summary]] = []
    stopped = False
    with Interrupt() as interrupt, Bar("tuning", None, quiet=options["quiet"]) as bar:

        def done(case: Case, summary: Summary) -> None:
            made.append((summary.workload, policy_name(case.scenario), summary))
            bar.step(case.label)

        with_progress: list[Runs] = []

        def evaluate(cases: Any) -> list[Summary]:
            bar.expect(len(cases))
            return with_progress[0](cases)

        tuner = Tuner(task, evaluate)
        found = PLAIN
        verdict: tuple[str, float | None, list[Held]] = ("not shown", None, [])
        try:
            with Runs(jobs_or_cores(options["jobs"]), done, interrupt) as runs:
                with_progress.append(runs)
                found = tuner.best()
                if found != PLAIN:
                    verdict = judge(task, found, evaluate)
        except Stopped:
            stopped = True
    tuning = Tuning(
        workload=source.spec,
        objective=objective,
        slo=task.slo,
        seeds=task.seeds,
        trained_on=f"the first {task.train:.0%} of the requests",
        judged_on=f"the last {1 - task.train:.0%}"
        + (", with other seeds" if task.random else ", the same for all seeds"),
        default=PLAIN,
        found=found,
        verdict=verdict[0],
        relative=verdict[1],
        chosen=found if verdict[0] == "better" else PLAIN,
        held=verdict[2],
        trials=tuner.trials,
        unfinished=stopped,
    )
    _tell(tuning, task, sorted(made, key=lambda one: (one[0], one[1], one[2].seed)), options)
    if stopped:
        sys.exit(INTERRUPTED)


def _levels(options: dict[str, Any], source: Source) -> list[Level]:
    if not options["rates"]:
        return [Level("as given")]
    if options["rate"] is not None:
        raise SimulatorError("--rate and --rates both say what the load is; give one of them")
    return [level("rate", rate) for rate in sorted(options["rates"])]


def configuration(tuning: Tuning) -> bytes:
    """The policy as a section of the router's configuration, with a head that says where it comes from."""
    spec = tuning.chosen.policy()
    policy: Any = {"name": spec.name, "options": dict(spec.options)} if spec.options else spec.name
    head = [
        f"Made by kvroute tune {__version__} on {tuning.workload}, objective {tuning.objective}"
        + (f" ({tuning.slo})" if tuning.slo else "") + ".",
        _sentence(tuning),
        "Use: kvroute serve --config THIS_FILE --backend URL ...",
    ]  # fmt: skip
    body = yaml.safe_dump({"policy": policy}, sort_keys=False)
    return ("".join(f"# {' '.join(line.split())}\n" for line in head) + body).encode()


def _sentence(tuning: Tuning) -> str:
    if tuning.unfinished:
        return "Stopped early: nothing was judged, so these are the default's weights."
    if tuning.found == PLAIN:
        return "No candidate was better than the default's weights on the training part: they stay."
    change = "" if tuning.relative is None else f" ({tuning.relative:+.1%} in {tuning.objective})"
    if tuning.verdict == "better":
        return f"Better than the default on {tuning.judged_on}{change}."
    if tuning.verdict == "worse":
        return f"The best weights of the training part are worse on {tuning.judged_on}{change}: the default's stay."
    return (
        f"The best weights of the training part are not shown to be better on {tuning.judged_on}{change}:"
        " the default's stay."
    )


def _weights(weights: Weights) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in msgspec.structs.asdict(weights).items())


def _tell(tuning: Tuning, task: Task, runs: list[tuple[str, str, Summary]], options: dict[str, Any]) -> None:
    if options["json_path"] is not None:
        common = {name: part for name, part in described(task.scenario).items() if name not in ("policy", "seed")}
        write(options["json_path"], document({"scenario": common, "tuning": tuning}))
    if options["csv_path"] is not None:
        write(options["csv_path"], csv_of(runs))
    out: Path | None = options["out"]
    if out is not None and not tuning.unfinished:
        write(out, configuration(tuning))
    if options["quiet"] or str(options["json_path"]) == "-":
        return
    console = Console(highlight=False)
    if tuning.unfinished:
        console.print(f"stopped early, {len(tuning.trials)} trials made", style="bold yellow")
    console.print(
        f"[bold]{tuning.workload}[/bold], {tuning.objective}, {len(tuning.trials)} trials on {tuning.trained_on}"
    )
    console.print(f"default: {_weights(tuning.default)}")
    console.print(f"found:   {_weights(tuning.found)}")
    for held in tuning.held:
        title = f"{held.level}, {tuning.judged_on}"
        console.print(side_by_side([held.default, held.tuned], title=title, reference="default", first="weights"))
    console.print(_sentence(tuning), style="bold")
    if out is not None and not tuning.unfinished:
        console.print(f"written: {out}", style="dim")
