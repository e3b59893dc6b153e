"""One run in full on the terminal. Fits 100 columns, reads without colour."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvroute.simulator.reports.distribution import Distribution
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.reports.units import count, digits, percent, time
from kvroute.simulator.runs.outcome import Outcome

LATENCIES = (("TTFT", "ttft"), ("TPOT", "tpot"), ("inter-token", "itl"), ("end to end", "e2e"), ("queueing", "queue"))
REGIMES = {"below": "below the knee", "at": "at the knee", "beyond": "SATURATED"}
STYLES = {"below": "green", "at": "yellow", "beyond": "bold red"}
MOST_REPLICAS = 16
"""Shown one by one."""


def one_run(summary: Summary) -> RenderableType:
    """All that is said of one run."""
    parts: list[RenderableType] = [heading(summary), _latencies(summary), _facts(summary)]
    if 1 < len(summary.per_replica) <= MOST_REPLICAS:
        parts.append(_replicas(summary))
    return Group(*parts, verdict(summary))


def heading(summary: Summary) -> Text:
    """What was run, in a line."""
    fleet = "1 replica" if summary.replicas == 1 else f"{summary.replicas} replicas"
    text = Text.assemble((summary.workload, "bold"), " on ", fleet, ", policy ", (summary.policy, "bold"))
    return text.append(f", seed {summary.seed}")


def verdict(summary: Summary) -> Text:
    """Where it stands to the knee, and whether it met its SLO."""
    text = Text.assemble((REGIMES[summary.regime], STYLES[summary.regime]), f": {summary.regime_reason}")
    if summary.slo is not None:
        met = ("SLO met", "green") if summary.slo_met else ("SLO missed", "bold red")
        text.append("\n").append(*met).append(f": {summary.slo}")
        text.append(f" ({percent(summary.slo_share or 0.0)} of requests within its limits)")
    return text


def speed(outcome: Outcome) -> str:
    """How fast the simulator was. It differs from run to run, so it is in no file."""
    done = len(outcome.requests) - outcome.unfinished
    if outcome.cpu_seconds <= 0.0:
        return f"simulated {count(done)} requests"
    share = min(outcome.decision_seconds / outcome.cpu_seconds, 1.0)  # the one is by the clock, the other CPU time
    return (
        f"simulated {count(done)} requests ({time(outcome.seconds)}) in {time(outcome.cpu_seconds)} of CPU,"
        f" {count(done / outcome.cpu_seconds)} a second; {percent(share)} of it in decisions"
    )


def _latencies(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in Distribution.__struct_fields__:
        table.add_column(name, justify="right", no_wrap=True)
    for label, field in LATENCIES:
        found: Distribution | None = getattr(summary, field)
        cells = ["-"] * 6 if found is None else [time(getattr(found, name)) for name in Distribution.__struct_fields__]
        table.add_row(label, *cells)
    return table


def _facts(summary: Summary) -> Table:
    """Two columns of a name and what is to be said of it."""
    ended = f"{summary.completed:,} of {summary.requests:,}"
    if summary.refused:
        ended += f", {summary.refused:,} refused"
    if summary.unfinished:
        ended += f", {summary.unfinished:,} unfinished"
    offered = "at once" if summary.offered_rate is None else f"{digits(summary.offered_rate)} requests/s"
    pairs = [
        ("completed", ended), ("duration", time(summary.duration_seconds)),
        ("offered", offered), ("done", f"{digits(summary.throughput_requests)} requests/s"),
        ("prompt", f"{count(summary.throughput_prompt_tokens)} tokens/s"),
        ("output", f"{count(summary.throughput_output_tokens)} tokens/s"),
        ("cached", _cached(summary)), ("router believed", percent(summary.believed_token_rate)),
        ("KV in use", f"{percent(summary.kv_usage_mean)}, at most {percent(summary.kv_usage_peak)}"),
        ("preemptions", f"{summary.preemptions:,}"),
        ("balance", f"{digits(summary.balance_requests)} requests, {digits(summary.balance_work)} work (max/mean)"),
    ]  # fmt: skip
    if summary.goodput is not None:
        pairs.append(("goodput", f"{digits(summary.goodput)} requests/s"))
    table = Table.grid(padding=(0, 2))
    for style in ("dim", "", "dim", ""):
        table.add_column(style=style)
    for left in range(0, len(pairs), 2):
        table.add_row(*(cell for pair in pairs[left : left + 2] for cell in pair))
    return table


def _cached(summary: Summary) -> str:
    return f"{percent(summary.cached_token_rate)} of prompts, at best {percent(summary.reusable_token_rate)}"


def _replicas(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("replica", "requests", "prompt tokens", "cached", "output tokens", "preemptions"):
        table.add_column(name, justify="left" if name == "replica" else "right")
    for one in summary.per_replica:
        cached = percent(one.cached_tokens / one.prompt_tokens) if one.prompt_tokens else "-"
        table.add_row(
            one.name, count(one.requests), count(one.prompt_tokens), cached, count(one.output_tokens),
            f"{one.preemptions:,}",
        )  # fmt: skip
    return table
