"""What was simulated, in words, and how far the numbers may be trusted."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from kvroute.scorers.contract import Role
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.reports.html.run import Run
from kvroute.simulator.reports.summary import policy_name
from kvroute.simulator.reports.units import count, digits
from kvroute.simulator.runs.scenario import Lateness, Scenario

ROLES = {Role.BOTH: "", Role.PREFILL: ", prefill only", Role.DECODE: ", decode only"}
SIMULATED = (
    "Every number on this page is simulated. The engine is a model of vLLM's scheduler and prefix cache; the router's"
    " decisions are made by the same code that runs live."
)
FOLDERS = re.compile(r":[^,\s]*/(?=[^/,\s]+)")
"""A file's folders say nothing to those who are shown the page."""
SATURATED = (
    "Saturated runs have no steady state: their latencies grow for as long as the run goes on, and say that the fleet"
    " is too small, not how slow it is."
)


def without_folders(workload: str) -> str:
    """`mooncake:/data/traces/a.jsonl` as `mooncake:a.jsonl`."""
    return FOLDERS.sub(":", workload)


def scenario_words(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(what, in words) of what the runs have in common."""
    first = runs[0]
    workloads = dict.fromkeys(without_folders(run.summary.workload) for run in runs)
    requests = sorted({run.summary.requests for run in runs})
    rates = sorted({run.summary.offered_rate for run in runs if run.summary.offered_rate is not None})
    words = [("Workload", ", ".join(workloads)), ("Requests", _span([f"{one:,}" for one in requests]))]
    words[1] = ("Requests", words[1][1] + (f" at {_span([digits(rate) for rate in rates])} a second" if rates else ""))
    fleets = dict.fromkeys(fleet(run.scenario) for run in runs)
    if len(fleets) == 1:
        words.append(("Fleet", next(iter(fleets))))
    else:
        words.append(("Fleets", "; ".join(f"{run.label}: {fleet(run.scenario)}" for run in runs)))
    policies = dict.fromkeys(policy_name(run.scenario) for run in runs)
    words.append(("Policy" if len(policies) == 1 else "Policies", ", ".join(policies)))
    words.append(("Router", router(first.scenario.lateness)))
    if first.summary.slo:
        words.append(("SLO", first.summary.slo))
    words.append(("Seed", _span([str(seed) for seed in sorted({run.summary.seed for run in runs})])))
    return words


def fleet(scenario: Scenario) -> str:
    """`8 x llama-3.1-8b-h100 (524 k tokens of KV cache, 256 requests at once, 2,048 tokens a step)`."""
    return " + ".join(_kinds(len(list(equal)), kind) for kind, equal in itertools.groupby(scenario.replicas))


def _kinds(many: int, kind: Kind) -> str:
    limits = kind.limits
    ranks = f", {kind.ranks} ranks each" if kind.ranks > 1 else ""
    room = count(limits.blocks * limits.block_size)
    return (
        f"{many} x {kind.name}{ROLES[kind.role]}{ranks} ({room} tokens of KV cache, {limits.max_num_seqs:,} requests at"
        f" once, {limits.max_num_batched_tokens:,} tokens a step)"
    )


def router(lateness: Lateness) -> str:
    """What the router knows, and how late."""
    if lateness.knowledge == "exact":
        known = f"knows the caches by KV events, {1e3 * lateness.event_seconds:g} ms late"
    else:
        known = "knows the caches by its own decisions and what replies report"
    if lateness.routers == 1:
        return known
    shared = (
        "that share nothing" if lateness.share_seconds is None
        else f"that hear of each other's requests after {1e3 * lateness.share_seconds:g} ms"
    )  # fmt: skip
    return f"{lateness.routers} routers {shared}; each {known}"


def notes(runs: Sequence[Run], given: Sequence[str], alone: str = "") -> list[str]:
    """Where the numbers come from, where each run stands, and what the caller adds. `alone`: which runs these are."""
    kinds = dict.fromkeys((kind.name, kind.source) for run in runs for kind in run.scenario.replicas)
    found = [SIMULATED]
    found += [f"Speed of {name}: {source}." for name, source in kinds]
    for run in runs:
        where = (run.label if len(runs) > 1 else "This run") + (f" ({alone})" if alone else "")
        said = {"below": "is below the knee", "at": "is at the knee", "beyond": "is saturated"}[run.summary.regime]
        if len(runs) == 1 or run.summary.regime != "below":
            found.append(f"{where} {said}: {run.summary.regime_reason}.")
        if run.summary.refused or run.summary.unfinished:
            found.append(
                f"{where}: {run.summary.refused:,} requests were refused and {run.summary.unfinished:,} not finished;"
                " latencies are those of completed requests."
            )
    if any(run.summary.saturated for run in runs):
        found.append(SATURATED)
    return [*found, *given]


def _span(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}" if values else "none"
