"""`kvroute tune`: weights of the default policy for one workload."""

from __future__ import annotations

from typing import Any

import click
import msgspec
import yaml

from kvroute import __version__
from kvroute.scorers.plugins import PolicySpec
from kvroute.simulator.commands.lists import numbers
from kvroute.simulator.commands.options import (
    COUNT,
    fleet_options,
    jobs_option,
    output_options,
    router_options,
    scenario_of,
    slo_of,
    source_of,
    told,
    workload_options,
)
from kvroute.simulator.commands.outputs import Outputs, WritablePath
from kvroute.simulator.commands.rows import csv_of
from kvroute.simulator.commands.work import Work
from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.latency.fleets import parse_fleet
from kvroute.simulator.reports.compared import side_by_side
from kvroute.simulator.reports.html import Run, Together, page
from kvroute.simulator.reports.html.tiles import Tile
from kvroute.simulator.reports.json import described, document
from kvroute.simulator.reports.measures import check_measure
from kvroute.simulator.reports.summary import policy_name
from kvroute.simulator.reports.terminal import terminal
from kvroute.simulator.search.case import Source
from kvroute.simulator.search.load import Level, knob_of, level
from kvroute.simulator.search.seeds import seed_changes
from kvroute.simulator.search.sent import warnings
from kvroute.simulator.search.weights import PLAIN, Held, Task, Tuner, Tuning, Weights, held_label, judge, judged_on


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
@click.option(
    "--seeds",
    type=COUNT,
    default=3,
    show_default=True,
    help="How many to search with, from --seed on; 1 where they change nothing.",
)
@click.option(
    "--out", type=WritablePath(), help="Write the policy as a configuration that kvroute serve --config takes."
)
@router_options
@jobs_option
@output_options("run")
@told
def tune(**options: Any) -> None:
    """Search scorer weights on the first part of a workload, and judge them on the rest."""
    source = source_of(options)
    kinds = parse_fleet(options["replicas"], options["preset"], options["cache_tokens"])
    scenario = scenario_of(kinds, PolicySpec("latency"), options)
    slo = slo_of(options["slo"])
    objective = check_measure(options["objective"] or ("ttft_p90" if slo is None else "slo_share"))
    if slo is None and objective in ("goodput", "slo_share"):
        raise SimulatorError(f"--objective {objective} counts good requests: say with --slo what makes one good")
    if knob_of(source) == "concurrency":
        raise SimulatorError(
            f"{source.spec}: clients that send until all is sent leave no part to hold out; tune without concurrency="
        )
    random = seed_changes(source)
    task = Task(
        source=source,
        scenario=scenario,
        levels=_levels(options, source),
        seeds=[options["seed"] + i for i in range(options["seeds"] if random else 1)],
        objective=objective,
        slo=None if slo is None else str(slo),
        trials=options["trials"],
        train=options["train"],
        random=random,
    )
    work = Work("tuning", options, lambda case: case.source.part is not None and case.source.part[0] > 0.0)
    tuner = Tuner(task, work)
    found = PLAIN
    verdict: tuple[str, float | None, list[Held]] = ("not shown", None, [])
    with work:
        found = tuner.best()
        if found != PLAIN:
            verdict = judge(task, found, work)
    tuning = Tuning(
        workload=source.spec,
        objective=objective,
        slo=task.slo,
        seeds=task.seeds,
        trained_on=f"the first {task.train:.0%} of the requests",
        judged_on=judged_on(task),
        default=PLAIN,
        found=tuner.leading() if work.stopped else found,
        verdict=verdict[0],
        relative=verdict[1],
        chosen=found if verdict[0] == "better" else PLAIN,
        held=verdict[2],
        trials=tuner.trials,
        unfinished=work.stopped,
    )
    _tell(tuning, task, work, options)
    work.end()


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


def _tell(tuning: Tuning, task: Task, work: Work, options: dict[str, Any]) -> None:
    """Files first, so that a table on the screen means that they are there."""
    outputs = Outputs(options)
    common = {name: part for name, part in described(task.scenario).items() if name not in ("policy", "seed")}
    outputs.json(lambda: document({"scenario": common, "tuning": tuning}))
    outputs.csv(
        lambda: csv_of([(one.summary.workload, policy_name(one.case.scenario), one.summary) for one in work.made()])
    )
    outputs.html(lambda: _page(tuning, task, work))
    if not tuning.unfinished:
        outputs.put(options["out"], lambda: configuration(tuning))
    if not outputs.shown:
        return
    console = terminal()
    if tuning.unfinished:
        console.print(f"stopped early, {len(tuning.trials)} trials made", style="bold yellow")
    console.print(
        f"[bold]{tuning.workload}[/bold], {tuning.objective}, {len(tuning.trials)} trials on {tuning.trained_on}"
    )
    console.print(f"default: {_weights(tuning.default)}")
    console.print(f"found:   {_weights(tuning.found)}")
    for held in tuning.held:
        title = f"{held.level}, {tuning.judged_on}"
        console.print(side_by_side([held.default, held.tuned], title=title, reference="default", first="weights",
                                   over=_over(task)))  # fmt: skip
    console.print(_sentence(tuning), style="bold")
    for warning in warnings([(one.case, one.summary) for one in work.made()]):
        console.print(warning, style="yellow", highlight=False)
    outputs.told(console)


def _page(tuning: Tuning, task: Task, work: Work) -> str | None:
    """In detail: default and tuned on the part held out, at the last load."""
    runs = []
    for label, weights in (("default", PLAIN), ("tuned", tuning.found)):
        made = work.find(held_label(task, weights, task.levels[-1]))
        if made is not None and (label == "default" or weights != PLAIN):
            runs.append(Run(label, made.case.scenario, made.summary, made.detail))
    if not runs:
        return None
    tone = {"better": "good", "worse": "bad"}.get(tuning.verdict, "warn")
    change = "-" if tuning.relative is None else f"{tuning.relative:+.1%}"
    tiles = [Tile(f"Tuned, {tuning.objective}", change, f"{tuning.verdict} on {tuning.judged_on}", tone)]
    together = _together(tuning, task) if tuning.held else None
    return page(f"Weights for {tuning.workload}", runs, notes=[_sentence(tuning)], headline=tiles, together=together)


def _together(tuning: Tuning, task: Task) -> Together:
    """What the part held out told, over all its runs; the page's plots are of the first of them."""
    levels = [(f"{held.level}, {tuning.judged_on}", [held.default, held.tuned]) for held in tuning.held]
    runs = tuning.held[-1].default.runs
    alone = f"seed {task.seeds[-1] + 1} alone" if task.random else f"piece 1 of {runs}"
    return Together(levels, len(levels) - 1, "default", f"{runs} {_over(task)}", alone)


def _over(task: Task) -> str:
    """What each weights' means on the part held out are taken over."""
    return "seeds" if task.random else "pieces"
