"""`kvroute simulate`: one workload, one fleet, one policy."""

from __future__ import annotations

import sys
from typing import Any

import click

from kvroute.simulator.commands.options import (
    fleet_options,
    output_options,
    policy_of,
    policy_options,
    router_options,
    scenario_of,
    slo_of,
    source_of,
    told,
    workload_options,
)  # fmt: skip
from kvroute.simulator.commands.outputs import Outputs
from kvroute.simulator.commands.progress import INTERRUPTED, Bar, Interrupt
from kvroute.simulator.latency.fleets import parse_fleet
from kvroute.simulator.reports.csv import lines
from kvroute.simulator.reports.html import Run, page
from kvroute.simulator.reports.json import described, document
from kvroute.simulator.reports.summary import Summary, summarise
from kvroute.simulator.reports.table import one_run, speed
from kvroute.simulator.reports.terminal import terminal
from kvroute.simulator.runs.outcome import Outcome
from kvroute.simulator.runs.run import simulate as run
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.case import Case, Source
from kvroute.simulator.search.sent import warnings
from kvroute.simulator.slo import Slo

LEAST_TIMED = 100
"""Requests from which on it is worth telling what part of the time went to decisions."""


@click.command()
@workload_options
@fleet_options
@policy_options
@click.option("--slo", help="Such as ttft_p90<2s,tpot_p90<50ms: also tells goodput.")
@router_options
@output_options("request")
@told
def simulate(**options: Any) -> None:
    """Run a workload on a simulated fleet: latencies, throughput, cache use, balance."""
    source = source_of(options)
    kinds = parse_fleet(options["replicas"], options["preset"], options["cache_tokens"])
    scenario = scenario_of(kinds, policy_of(options["policy"], options["policy_config"]), options)
    slo = slo_of(options["slo"])
    workload = source.load()
    with Interrupt() as interrupt:
        expected = source.expected()
        with Bar("simulating", expected, quiet=options["quiet"]) as bar:
            outcome = run(
                workload, scenario, progress=lambda done, now: bar.at(done, f"{now:,.0f} s simulated"), stop=interrupt
            )
        stopped = _stopped(outcome, expected) if interrupt.heeded else None
        _tell(outcome, scenario, slo, source, options, stopped)
    if stopped is not None:
        sys.exit(INTERRUPTED)


def _stopped(outcome: Outcome, expected: int | None) -> str:
    done = len(outcome.requests) - outcome.unfinished
    whole = max(expected or 0, len(outcome.requests))
    return f"stopped early, {done:,} of {whole:,} requests"


def _tell(
    outcome: Outcome, scenario: Scenario, slo: Slo | None, source: Source, options: dict[str, Any], stopped: str | None
) -> None:
    """Files first, so that a table on the screen means that they are there."""
    summary = summarise(outcome, scenario, slo)
    outputs = Outputs(options)
    outputs.json(lambda: _json(outcome, scenario, summary, stopped))
    outputs.csv(lambda: "".join(lines(outcome, scenario)).encode())
    outputs.html(lambda: _page(outcome, scenario, summary, stopped))
    if not outputs.shown:
        return
    console = terminal()
    if stopped is not None:
        console.print(stopped, style="bold yellow")
    console.print(one_run(summary))
    for warning in warnings([(Case("", source, scenario), summary)]):
        console.print(warning, style="yellow", highlight=False)
    said = speed(outcome)
    if len(outcome.requests) < LEAST_TIMED:  # what a share of so little is says nothing
        said = said.partition(";")[0]
    console.print(said, style="dim")
    outputs.told(console)


def _json(outcome: Outcome, scenario: Scenario, summary: Summary, stopped: str | None) -> bytes:
    parts: dict[str, Any] = {} if stopped is None else {"stopped_early": stopped}
    return document({**parts, "scenario": described(scenario), "summary": summary, "samples": outcome.samples})


def _page(outcome: Outcome, scenario: Scenario, summary: Summary, stopped: str | None) -> str:
    run = Run.of(summary.policy, scenario, summary, outcome)
    return page(f"{summary.workload} on {summary.replicas} replicas", [run], notes=[] if stopped is None else [stopped])
