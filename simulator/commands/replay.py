"""`kvroute replay`: a decision log under another policy or on another fleet, beside what was measured."""

from __future__ import annotations

import functools
import sys
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.text import Text

from kvroute.simulator.commands.options import POSITIVE, Whole, output_options, policy_of, told
from kvroute.simulator.commands.outputs import Outputs
from kvroute.simulator.commands.progress import INTERRUPTED, Bar, Interrupt
from kvroute.simulator.latency.fleets import parse_fleet
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.presets import DEFAULT, preset
from kvroute.simulator.reports.csv import lines as csv_lines
from kvroute.simulator.reports.html import Run, page
from kvroute.simulator.reports.json import described, document
from kvroute.simulator.reports.replayed import Figures, differences, measured, simulated, table
from kvroute.simulator.reports.summary import Summary, policy_name, summarise
from kvroute.simulator.reports.table import verdict
from kvroute.simulator.reports.terminal import terminal
from kvroute.simulator.runs.logged import Ordered, kinds, scenario
from kvroute.simulator.runs.outcome import Outcome
from kvroute.simulator.runs.redecide import redecide
from kvroute.simulator.runs.run import simulate as run
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.workloads import log as logs
from kvroute.simulator.workloads.decisions import beginning, fleet, lines, paths
from kvroute.simulator.workloads.log import Logged

DECIDED_AGAIN = 20_000
"""Lines of each file whose decisions are taken again: some seconds' work."""


@click.command()
@click.argument("log")
@click.option("--policy", "-p", help="How to choose: latency, goodput, round-robin, ... [default: the log's]")
@click.option(
    "--policy-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML with `policy` and `scorers`, as kvroute serve --config takes it; instead of --policy.",
)
@click.option(
    "--replicas",
    "-n",
    help="How many, of the log's own kinds; or a fleet as kvroute simulate takes it. [default: the log's fleet]",
)
@click.option(
    "--preset",
    default=DEFAULT,
    show_default=True,
    help="How fast the log's replicas are: a preset's name, or a file with a kind, such as kvroute calibrate writes.",
)
@click.option("--cache-tokens", type=Whole(), help="KV cache of each [tokens]. [default: the log's]")
@click.option("--seed", type=click.IntRange(min=0), help="Of all that is random. [default: the log's]")
@click.option("--requests", type=Whole(), help="The first so many. [default: all]")
@click.option("--speedup", type=POSITIVE, default=1.0, show_default=True, help="Requests come that much faster.")
@click.option("--model", default="", help="Only requests for this model.")
@click.option("--closed", is_flag=True, help="Send each turn after the answer before it, not at its recorded time.")
@output_options("request")
@told
def replay(log: str, **options: Any) -> None:
    """Run a decision LOG (of kvroute serve --decision-log; a file or a pattern) under another policy or fleet.

    It is simulated as it was, too: how far that is from what was measured is how far to trust the rest.
    """
    replayed = _Replay(log, options)
    with Interrupt() as interrupt:
        replayed.run(options, interrupt)
    if interrupt.heeded:
        click.echo("kvroute: stopped early: there is nothing to compare yet", err=True)
        sys.exit(INTERRUPTED)
    replayed.tell(options)


class _One(msgspec.Struct):
    """One run and its figures."""

    scenario: Scenario
    outcome: Outcome
    summary: Summary
    figures: Figures


class _Replay:
    """The log, its control run, and the run under what was asked for."""

    def __init__(self, log: str, options: dict[str, Any]) -> None:
        self._log = log
        self._files = paths(log)
        self._began = beginning(log)
        self._workload = self._read(options, 1.0)
        self._records = [turn.record for turn in self._workload.turns]
        self._real = measured(self._records, [turn.told for turn in self._workload.turns])
        self._then = self._as_it_was(preset(options["preset"]))
        self._otherwise = self._changed(options)
        self.control: _One | None = None
        self.changed: _One | None = None

    def _read(self, options: dict[str, Any], speedup: float) -> Logged:
        return logs.read(
            self._log, requests=options["requests"], speedup=speedup, closed=options["closed"], model=options["model"]
        )

    def _as_it_was(self, kind: Kind) -> Scenario:
        exact = any(record.knowledge == "exact" for record in self._records)
        seen = kinds(fleet(self._log), kind, self._workload.key_tokens)
        return scenario(self._began, seen, routers=len(self._files), exact=exact)

    def _changed(self, options: dict[str, Any]) -> Scenario | None:
        """What was asked for; None: nothing else than the log's own."""
        was = self._then
        replicas, tokens, text = was.replicas, options["cache_tokens"], options["replicas"]
        if text is not None and text.strip().isdecimal() and int(text) > 0:
            replicas = tuple(islice(cycle(replicas), int(text)))
        elif text is not None:
            replicas = parse_fleet(text, options["preset"])
        if tokens is not None:
            replicas = tuple(kind.with_cache(tokens) for kind in replicas)
        policy, path = options["policy"], options["policy_config"]
        spec = was.policy if policy is None and path is None else policy_of(policy, path)
        seed = was.seed if options["seed"] is None else options["seed"]
        changed = msgspec.structs.replace(was, replicas=replicas, policy=spec, seed=seed)
        return None if changed == was and options["speedup"] == 1.0 else changed

    def run(self, options: dict[str, Any], interrupt: Interrupt) -> None:
        """Both runs, until told to stop."""
        runs = 1 if self._otherwise is None else 2
        with Bar("replaying", runs * len(self._records), quiet=options["quiet"]) as bar:
            self.control = self._one(self._workload, self._then, bar, 0, interrupt)
            if self._otherwise is not None and not interrupt.heeded:
                speedup = options["speedup"]
                workload = self._workload if speedup == 1.0 else self._read(options, speedup)
                self.changed = self._one(workload, self._otherwise, bar, len(self._records), interrupt)

    def _one(self, workload: Logged, scenario: Scenario, bar: Bar, before: int, interrupt: Interrupt) -> _One:
        ordered = Ordered(workload)
        outcome = run(ordered, scenario, progress=lambda done, now: bar.at(before + done), stop=interrupt)
        figures = simulated(self._records, outcome, ordered.ids())
        return _One(scenario, outcome, summarise(outcome, scenario), figures)

    def tell(self, options: dict[str, Any]) -> None:
        """Files, and the table."""
        control, changed = self.control, self.changed
        assert control is not None
        last = changed or control
        outputs = Outputs(options)
        outputs.json(lambda: document(self._parts(control)))
        outputs.csv(lambda: "".join(csv_lines(last.outcome, last.scenario)).encode())
        outputs.html(lambda: self._page(control))
        if not outputs.shown:
            return
        console = terminal()
        console.print(self._heading())
        names = (_label(control.scenario), _label(last.scenario))
        console.print(table(self._real, control.figures, changed.figures if changed else None, names))
        if changed is not None:
            console.print(verdict(changed.summary))
        console.print(self._again(), style="dim")
        outputs.told(console)

    def _parts(self, control: _One) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "log": {"path": self._log, "requests": len(self._records), "policy": policy_name(self._then)},
            "measured": self._real,
            "control": {**_told(control), "off_by": differences(self._real, control.figures)},
        }
        if self.changed is not None:
            change = differences(control.figures, self.changed.figures)
            parts["replayed"] = {**_told(self.changed), "change": change}
        same, decisions = self._decided_again
        return {**parts, "decided_again": {"decisions": decisions, "same": same}}

    def _heading(self) -> Text:
        count = len(self._then.replicas)
        fleet = "1 replica" if count == 1 else f"{count} replicas"
        text = Text.assemble((self._log, "bold"), f": {len(self._records):,} requests to {fleet}, policy ")
        return text.append(policy_name(self._then), style="bold")

    def _again(self) -> str:
        same, decisions = self._decided_again
        if not decisions:
            return "no decision could be taken again: the log does not begin with its router, or lines of it were lost"
        return f"decided again from the log alone: {same:,} of {decisions:,} picks are the same"

    @functools.cached_property
    def _decided_again(self) -> tuple[int, int]:
        """(picks that are the same, decisions) of those whose whole past is in the beginnings of the files."""
        beginnings = (islice(lines(file), DECIDED_AGAIN) for file in self._files)
        found = [again.same for told in beginnings for again in redecide(told) if again.recorded and again.whole]
        return sum(found), len(found)

    def _page(self, control: _One) -> str:
        runs = [Run.of(f"as it was: {_label(control.scenario)}", control.scenario, control.summary, control.outcome)]
        if self.changed is not None:
            one = self.changed
            runs.append(Run.of(_label(one.scenario), one.scenario, one.summary, one.outcome))
        return page(f"{Path(self._log).name} replayed", runs, notes=[self._again()])


def _told(one: _One) -> dict[str, Any]:
    return {"scenario": described(one.scenario), "summary": one.summary, "figures": one.figures}


def _label(scenario: Scenario) -> str:
    """What sets it apart."""
    count = len(scenario.replicas)
    return f"{policy_name(scenario)}, {count} replica{'' if count == 1 else 's'}"
