"""One run in numbers: what every report says of it."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from kvroute.scorers.contract import Role
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.reports.columns import Columns, Ints, kinds
from kvroute.simulator.reports.distribution import Distribution, GapQuantiles, Quantiles
from kvroute.simulator.reports.knee import crowd, judge
from kvroute.simulator.runs.outcome import Outcome
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.slo import Slo

Counts: TypeAlias = npt.NDArray[Any]


class PerReplica(msgspec.Struct, frozen=True):
    """What one replica did."""

    name: str
    requests: int
    """That it prefilled or answered."""
    prompt_tokens: int
    """Of completed requests that it prefilled."""
    cached_tokens: int
    """Those of them that it found in its cache."""
    output_tokens: int
    """Of completed requests that it answered."""
    preemptions: int
    """Of requests that it answered."""


class Summary(msgspec.Struct, frozen=True):
    """One run. Latencies are those of completed requests; None: there was nothing to measure."""

    workload: str
    policy: str
    replicas: int
    """Ranks apart."""
    seed: int
    requests: int
    """All that were sent, refused and unfinished ones included."""
    completed: int
    refused: int
    unfinished: int
    duration_seconds: float
    """From the first request sent to the last answer, the time after the last arrival included."""
    offered_rate: float | None
    """Requests sent a second between the first and the last of them; None: they came at once."""
    throughput_requests: float
    """Completed requests per second of the duration."""
    throughput_prompt_tokens: float
    throughput_output_tokens: float
    ttft: Distribution | None
    """Sent until the client's first token [s]."""
    tpot: Distribution | None
    """(last token - first token) / (output tokens - 1), of requests with more than one [s]."""
    itl: Distribution | None
    """Between two tokens of an answer, all answers together [s]."""
    e2e: Distribution | None
    """Sent until the client's last token [s]."""
    queue: Distribution | None
    """In the engine's queue until first scheduled [s]."""
    cached_token_rate: float
    """Share of the prompt tokens that engines found in their caches [0..1]."""
    reusable_token_rate: float
    """Share that one endless cache would have held, in order of arrival, over the whole run: the upper bound [0..1]."""
    believed_token_rate: float
    """Share that the router believed to be cached where it sent them [0..1]."""
    balance_requests: float
    """Most requests of a replica / mean over replicas, each divided by its relative speed of prefill; of prefill and
    decode replicas, where they are apart, those that are less even. 1: even."""
    balance_work: float
    """The same of computed (not cached) prompt tokens, over the replicas that run prefills."""
    preemptions: int
    kv_usage_mean: float
    """Share of KV blocks held by running requests, over time and replicas [0..1]."""
    kv_usage_peak: float
    """The most at any replica in any sample [0..1]."""
    saturated: bool
    """Work came in faster than it was done."""
    regime: Literal["below", "at", "beyond"]
    """Where it stands to the knee."""
    regime_reason: str
    slo: str | None
    slo_met: bool | None
    goodput: float | None
    """Requests per second of the duration that were good: each within the SLO's limits."""
    slo_share: float | None
    """Good requests / those completed or refused [0..1]."""
    per_replica: list[PerReplica]
    slo_extra: dict[str, float] = {}
    """Percentiles that the SLO asks for and that are not above, such as ttft_p97 [s]."""


def summarise(outcome: Outcome, scenario: Scenario, slo: Slo | None = None, *, skip: float = 0.0) -> Summary:
    """The numbers of a run.

    Args:
        skip: leave out requests sent before this moment (warm-up) [s since the start]. Inter-token times, KV use and
            the upper bound are of the whole run all the same.
    """
    columns = Columns(outcome, scenario, skip)
    fleet = kinds(scenario)
    done = columns.done
    completed = int(done.sum())
    refused = outcome.refused if skip <= 0.0 else max(len(columns) - completed - outcome.unfinished, 0)
    seconds = _duration(columns)
    ttft, tpot, e2e, queue = (
        Quantiles(column[done]) for column in (columns.ttft, columns.tpot, columns.e2e, columns.queue)
    )
    gaps = GapQuantiles(outcome.gaps)
    prompt = int(columns.prompt[done].sum())
    all_prompts = sum(outcome.requests.prompt)
    verdict = judge(outcome, scenario, columns)
    crowding = crowd(outcome, fleet)
    good = _good(columns, slo) if slo else None
    found = Summary(
        workload=outcome.workload,
        policy=policy_name(scenario),
        replicas=len(outcome.names),
        seed=scenario.seed,
        requests=len(columns),
        completed=completed,
        refused=refused,
        unfinished=len(columns) - completed - refused,
        duration_seconds=seconds,
        offered_rate=_rate(columns),
        throughput_requests=_per(completed, seconds),
        throughput_prompt_tokens=_per(prompt, seconds),
        throughput_output_tokens=_per(int(columns.output[done].sum()), seconds),
        ttft=ttft.distribution(),
        tpot=tpot.distribution(),
        itl=gaps.distribution(),
        e2e=e2e.distribution(),
        queue=queue.distribution(),
        cached_token_rate=_per(int(columns.cached[done].sum()), prompt),
        reusable_token_rate=_per(outcome.reusable_tokens, all_prompts),
        believed_token_rate=_per(int(columns.hit[done].sum()), prompt),
        balance_requests=_balance_requests(columns, fleet),
        balance_work=_balance_work(columns, fleet),
        preemptions=int(columns.preemptions.sum()),
        kv_usage_mean=crowding.kv_mean,
        kv_usage_peak=crowding.kv_peak,
        saturated=verdict.saturated,
        regime=verdict.regime,
        regime_reason=verdict.reason,
        slo=str(slo) if slo else None,
        slo_met=None,
        goodput=None if good is None else _per(good, seconds),
        slo_share=None if good is None else _per(good, completed + refused),
        per_replica=_per_replica(columns, outcome.names),
        slo_extra=_extra(slo, {"ttft": ttft, "tpot": tpot, "itl": gaps, "e2e": e2e, "queue": queue}),
    )
    return msgspec.structs.replace(found, slo_met=slo.met(found)) if slo else found


def policy_name(scenario: Scenario) -> str:
    """The policy as people read it: its name, or the scorers that it adds up, with options and weights."""
    spec = scenario.policy
    parts = [] if spec.name is None else [spec.name + _options(spec.options)]
    for scorer in spec.scorers:
        weight = "" if scorer.weight == 1.0 else f"*{scorer.weight:g}"
        parts.append(scorer.name + _options(scorer.options) + weight)
    return "+".join(parts)


def _options(options: dict[str, object]) -> str:
    if not options:
        return ""
    return "(" + ",".join(f"{key}={options[key]}" for key in sorted(options)) + ")"


def _duration(columns: Columns) -> float:
    return float(np.nanmax(columns.ended)) - float(columns.at[0]) if columns.done.any() else 0.0


def _rate(columns: Columns) -> float | None:
    """n arrivals leave n - 1 gaps between them."""
    if len(columns) < 2 or columns.at[-1] <= columns.at[0]:
        return None
    return (len(columns) - 1) / float(columns.at[-1] - columns.at[0])


def _per(count: float, whole: float) -> float:
    return count / whole if whole > 0 else 0.0


def _good(columns: Columns, slo: Slo) -> int:
    """How many completed requests are within the SLO's limits."""
    own = {"ttft": columns.ttft, "tpot": columns.tpot, "e2e": columns.e2e, "queue": columns.queue}
    return int((slo.good(own) & columns.done).sum())


def _extra(slo: Slo | None, known: dict[str, Quantiles | GapQuantiles]) -> dict[str, float]:
    found = {}
    for term in slo.terms if slo else ():
        if term.quantile is not None and term.statistic not in Distribution.__struct_fields__:
            value = known[term.metric].at(term.quantile)
            found[f"{term.metric}_{term.statistic}"] = 0.0 if math.isnan(value) else value
    return found


def _balance_requests(columns: Columns, fleet: list[Kind]) -> float:
    by_role = ((Role.DECODE, columns.prefilled_by), (Role.PREFILL, columns.replica))
    return max(_balance(np.bincount(who[who >= 0], minlength=len(fleet)), fleet, other) for other, who in by_role)


def _balance_work(columns: Columns, fleet: list[Kind]) -> float:
    who, computed = columns.prefilled_by[columns.done], (columns.prompt - columns.cached)[columns.done]
    return _balance(np.bincount(who, weights=computed, minlength=len(fleet)), fleet, Role.DECODE)


def _balance(loads: Counts, fleet: list[Kind], other: Role) -> float:
    """max / mean over the replicas that are not of the other role, each load divided by its replica's speed."""
    shares = zip(loads.tolist(), _capacities(fleet), fleet, strict=True)
    return _uneven([load / capacity for load, capacity, kind in shares if kind.role is not other])


def _capacities(fleet: list[Kind]) -> list[float]:
    """How fast each replica computes prompt tokens, next to the first one."""
    return [fleet[0].step.c3 / kind.step.c3 for kind in fleet]


def _uneven(loads: list[float]) -> float:
    """max / mean; 1 where there is nothing."""
    total = math.fsum(loads)
    return max(loads) * len(loads) / total if total > 0.0 else 1.0


def _per_replica(columns: Columns, names: list[str]) -> list[PerReplica]:
    done, size = columns.done, len(names)

    def tokens(column: Ints, who: Ints) -> list[int]:
        return [int(one) for one in np.bincount(who[done], weights=column[done], minlength=size).tolist()]

    own, helper = columns.replica, columns.prefilled_by
    answered = np.bincount(own[own >= 0], minlength=size)
    rows = zip(
        names,
        (answered + np.bincount(helper[helper != own], minlength=size)).tolist(),
        tokens(columns.prompt, helper),
        tokens(columns.cached, helper),
        tokens(columns.output, own),
        tokens(columns.preemptions, own),
        strict=True,
    )
    return [PerReplica(*row) for row in rows]
