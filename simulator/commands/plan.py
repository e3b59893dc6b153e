"""`kvroute plan`: how many replicas of what kind a load needs, or how much load replicas take."""

from __future__ import annotations

from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from kvroute.simulator.commands.lists import counts, names, prices
from kvroute.simulator.commands.options import (
    COUNT,
    jobs_option,
    output_options,
    policy_of,
    policy_options,
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
from kvroute.simulator.errors import FleetError, SimulatorError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.presets import DEFAULT, preset
from kvroute.simulator.reports.html import Run, page
from kvroute.simulator.reports.html.tiles import Tile
from kvroute.simulator.reports.json import described, document
from kvroute.simulator.reports.summary import policy_name
from kvroute.simulator.reports.terminal import terminal
from kvroute.simulator.reports.units import count, digits, percent, time
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.capacity import Answer, Plan, Planner, Point, Variant, cheapest, chosen_label
from kvroute.simulator.search.case import Case
from kvroute.simulator.search.curves import curve_of_plan
from kvroute.simulator.search.load import UNITS
from kvroute.simulator.search.sent import warnings


@click.command()
@workload_options
@click.option("--slo", required=True, help="What must hold: ttft_p90<2s,tpot_p90<50ms.")
@click.option(
    "--replicas",
    "-n",
    callback=counts,
    help="So many: how much load do they take? Several with commas between. [default: how many are needed?]",
)
@click.option(
    "--most", type=COUNT, default=128, show_default=True, help="Replicas beyond which no answer is looked for."
)
@click.option(
    "--presets", default=DEFAULT, show_default=True, callback=names, help="Kinds to try, with commas between."
)
@click.option("--price", callback=prices, help="Of one replica of a kind: a=2.5,b=4; tells the cheapest.")
@click.option(
    "--cache-tokens", callback=counts, help="KV cache sizes to try [tokens]: 250k,500k. [default: the preset's]"
)
@click.option("--roles", is_flag=True, help="Try prefill and decode on replicas apart, too.")
@policy_options
@click.option(
    "--seeds", type=COUNT, default=1, show_default=True, help="How many, from --seed on; the SLO must hold with each."
)
@router_options
@jobs_option
@output_options("run")
@told
def plan(**options: Any) -> None:
    """Find the fewest replicas that meet an SLO at a load, or with --replicas the greatest load that they take."""
    source = source_of(options)
    slo = slo_of(options["slo"])
    variants = _variants(options)
    if options["roles"] and options["replicas"]:
        raise SimulatorError("--roles asks for the fewest replicas; it cannot be had with --replicas")
    if options["rate"] is not None and options["replicas"]:
        raise SimulatorError("--rate and --replicas: one of them is the question; give the other alone")
    scenario = scenario_of((variants[0].kind,), policy_of(options["policy"], options["policy_config"]), options)
    source.load()
    answers: list[Answer] = []
    seeds = [options["seed"] + i for i in range(options["seeds"])]
    work = Work("planning", options)
    planner = Planner(source, scenario, seeds, str(slo), work)
    with work:
        for variant in variants:
            if not options["replicas"]:
                answers.append(planner.fewest(variant, options["most"], roles=options["roles"]))
            for replicas in options["replicas"]:
                answers.append(planner.greatest(variant, replicas))
    found = Plan(
        workload=source.spec,
        policy=policy_name(scenario),
        slo=str(slo),
        rate=source.rate,
        speedup=source.speedup,
        seeds=seeds,
        answers=answers,
        cheapest=cheapest(answers),
        unfinished=work.stopped,
        so_far=planner.so_far(),
    )
    _tell(found, scenario, work, options)
    work.end()


def _load(case: Case) -> str:
    source = case.source
    return f"{source.rate:g} req/s" if source.rate is not None else f"speedup {source.speedup:g}"


def _variants(options: dict[str, Any]) -> list[Variant]:
    """Each kind with each cache size."""
    found = []
    given: dict[str, float] = options["price"]
    for name in given:
        if name not in options["presets"]:
            raise SimulatorError(f"--price names {name!r}, which is not among --presets {','.join(options['presets'])}")
    for name in options["presets"]:
        kind = preset(name)
        for tokens in options["cache_tokens"] or [None]:
            label = name if tokens is None else f"{name}, {tokens:,} tokens"
            sized = kind if tokens is None else _with_cache(kind, tokens)
            found.append(Variant(label, sized, given.get(name)))
    return found


def _with_cache(kind: Kind, tokens: int) -> Kind:
    try:
        return kind.with_cache(tokens)
    except ValueError as error:
        raise FleetError(f"--cache-tokens {tokens}: {error}") from error


def _tell(found: Plan, scenario: Scenario, work: Work, options: dict[str, Any]) -> None:
    """Files first, so that a table on the screen means that they are there."""
    outputs = Outputs(options)
    common = {name: part for name, part in described(scenario).items() if name not in ("replicas", "seed")}
    outputs.json(lambda: document({"scenario": common, "plan": found}))
    outputs.csv(lambda: csv_of([(_load(one.case), one.case.label, one.summary) for one in work.made()]))
    outputs.html(lambda: _page(found, work))
    if not outputs.shown:
        return
    console = terminal()
    if found.unfinished:
        console.print(f"stopped early, {len(found.answers)} searches ended", style="bold yellow")
    rate = "" if found.rate is None else f" at {found.rate:g} req/s"
    console.print(f"[bold]{found.workload}[/bold]{rate}, policy {found.policy}: {found.slo}")
    for answer in found.answers:
        _print(answer, console)
    if found.so_far is not None:
        console.print(f"\nTried of {found.so_far.variant} so far:", style="bold")
        console.print(_curve(found.so_far.curve, found.so_far))
    loads = any(answer.knob is not None for answer in found.answers)
    if len(found.answers) > 1 and loads:
        console.print()
        console.print(_overview(found.answers))
    priced = any(answer.cost is not None for answer in found.answers)
    if len(found.answers) > 1 and found.cheapest is not None and (priced or not loads):
        console.print(f"Take [bold]{found.cheapest}[/bold].")
    for warning in warnings([(one.case, one.summary) for one in work.made()]):
        console.print(warning, style="yellow", highlight=False)
    outputs.told(console)


def _page(found: Plan, work: Work) -> str | None:
    """In detail: each variant's answer, with the first seed."""
    runs = []
    for answer in found.answers:
        made = work.find(chosen_label(answer))
        if made is not None:
            runs.append(Run(answer.title, made.case.scenario, made.summary, made.detail))
    if not runs:
        return None
    tiles = [
        Tile(answer.title, _short(answer), found.slo, "good" if answer.able else "bad") for answer in found.answers
    ]
    return page(f"Capacity for {found.workload}", runs, curve_of_plan(found), headline=tiles)


def _tile(answer: Answer, slo: str) -> Tile:
    return Tile(answer.title, _short(answer), slo, "good" if answer.able else "bad")


def _short(answer: Answer) -> str:
    """The answer in two words."""
    if not answer.able:
        return "not met"
    if answer.knob is None:
        return f"{answer.replicas} replicas"
    return f"{answer.load:g} {UNITS[answer.knob]}"


def _print(answer: Answer, console: Console) -> None:
    """The answer in a sentence, and all that was tried."""
    console.print()
    console.print(_sentence(answer), style="bold")
    if not answer.monotone:
        console.print(
            "Not every run agrees that more replicas, or less load, is better: look at the curve, or give more"
            " --requests or --seeds.",
            style="yellow",
        )
    if answer.too_short is not None:
        console.print(
            f"Too short to tell whether the fleet keeps up: about {answer.too_short:,} --requests would do, or leave"
            " --requests out.",
            style="yellow",
        )
    console.print(_curve(answer.curve, answer))
    if answer.splits and answer.best_split is not None:
        console.print(f"Roles, with {answer.best_split.replicas} replicas: best is {_roles(answer.best_split)}.")
        console.print(_curve(answer.splits, answer))


def _overview(answers: list[Answer]) -> Table:
    """All answers: what they need or take, and at what price."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("fleet")
    for head in ("replicas", "takes", "per replica", "price", "price for 1"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in answers:
        taken = "-" if one.load is None else f"{one.load:g} {UNITS[one.knob or 'rate']}"
        each = "-" if one.load is None or not one.replicas else digits(one.load / one.replicas)
        cost = "-" if one.cost is None else digits(one.cost)
        per_load = "-" if one.cost is None or one.load is None else digits(one.cost / one.load)
        table.add_row(one.variant, "-" if one.replicas is None else str(one.replicas), taken, each, cost, per_load)
    return table


def _sentence(answer: Answer) -> str:
    cost = "" if answer.cost is None else f", at a price of {digits(answer.cost)}"
    if answer.knob is not None:
        fleet = f"{answer.replicas} x {answer.variant}"
        if answer.load is None:
            return f"{fleet} do not meet the SLO at any load tried."
        what = UNITS[answer.knob]
        least = "at least " if answer.bounded else ""
        return f"{fleet} take {least}{answer.load:g} {what}{cost}."
    if answer.replicas is None:
        return f"{answer.variant}: {answer.curve[-1].replicas} replicas do not meet the SLO either."
    split = answer.best_split
    roles = "" if split is None or split.prefill is None or not split.met else f": {_roles(split)}"
    return f"{answer.replicas} x {answer.variant} meet the SLO{roles}{cost}."


def _roles(point: Point) -> str:
    if point.prefill is None:
        return "all doing both"
    return f"{point.prefill} prefill + {point.replicas - point.prefill} decode"


def _few(point: Point) -> str:
    """The same for a column."""
    return "all both" if point.prefill is None else f"{point.prefill}P + {point.replicas - point.prefill}D"


def _verdict(point: Point) -> str:
    return "met" if point.met else "saturated" if point.saturated else "missed"


def _curve(points: list[Point], answer: Answer) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    roles = any(point.prefill is not None for point in points)
    first = "load" if answer.knob is not None else "roles" if roles else "replicas"
    table.add_column(first, justify="left" if roles else "right", no_wrap=True)
    for head in ("SLO", "requests", "TTFT p90", "TPOT p90", "e2e p90", "good", "cached", "out/s", "knee"):
        table.add_column(head, justify="right", no_wrap=True)
    for point in points:
        figures = point.figures
        name = f"{point.load:g}" if answer.knob is not None else _few(point) if roles else str(point.replicas)
        chosen = point.load == answer.load if answer.knob is not None else point.replicas == answer.replicas
        table.add_row(
            name, _verdict(point), count(point.requests),
            *(time(figures[one]) if one in figures else "-" for one in ("ttft_p90", "tpot_p90", "e2e_p90")),
            percent(figures.get("slo_share", 0.0)), percent(figures.get("cached_token_rate", 0.0)),
            count(figures.get("throughput_output_tokens", 0.0)),
            "SATURATED" if point.regime == "beyond" else point.regime,
            style="bold green" if chosen and not roles else "" if point.met else "red",
        )  # fmt: skip
    return table
