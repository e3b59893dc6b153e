"""Whether a run was below, at or beyond the knee: whether work came in faster than it was done.

A fleet that cannot keep up lets waiting grow with time. Where work arrives at rho times the rate at which it is done,
each second of arrivals adds rho - 1 seconds to the wait of those who come next, whatever the fleet or the requests are:
the slope of the wait over the time of arrival *is* the overload. A fleet that keeps up has waits without a trend; by
chance alone its wait wanders, in proportion to the square root of the number of requests, so that is what a slope
must exceed before it counts.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.reports.columns import Columns, Floats, kinds
from kvroute.simulator.reports.distribution import Quantiles
from kvroute.simulator.reports.units import time
from kvroute.simulator.runs.outcome import Outcome
from kvroute.simulator.runs.scenario import Scenario

WINDOWS = 20
LEAST_REQUESTS = 60
"""Fewer show no trend."""
LEAST_SLOPE = 0.005
"""Seconds of wait added a second of arrivals, below which even a million requests are not called overloaded."""
CHANCE = 2.0
"""The slope must exceed this over the square root of the number of requests."""
CHANCE_OF_ONE = 4.0
"""The same for one replica of many: among dozens, one wanders far by chance."""
QUEUE_TO_PREFILL = 2.0
"""At the knee the p90 of queueing is this many times that of a request's own prefill: M/D/1 has it at rho = 0.6."""
FULL = 0.97
"""KV use from which a cache counts as full."""
MUCH = 0.2
"""Share of the time that counts as much."""
PREEMPTED = 0.005
"""Preemptions a request that put a run at the knee."""

REFUSED = 0.01
"""Share of the requests from which on the refused are spoken of."""
STILL_GROWING = 0.1
"""Share of the second half's requests by which those under way may grow before a run is too short to judge."""

Regime = Literal["below", "at", "beyond"]


class Verdict(NamedTuple):
    """Where a run stands, and why in words."""

    regime: Regime
    reason: str

    @property
    def saturated(self) -> bool:
        """Whether work came in faster than it was done."""
        return self.regime == "beyond"


class Crowding(NamedTuple):
    """Shares of the fleet's time (time x replicas) [0..1]."""

    kv_mean: float
    kv_peak: float
    kv_full: float
    """With KV use of at least FULL."""
    slots_full: float
    """With as many requests running as may run."""


def judge(outcome: Outcome, scenario: Scenario, columns: Columns) -> Verdict:
    """Below, at or beyond the knee."""
    verdict = _judge(outcome, scenario, columns)
    refused = _refused(outcome)
    return verdict._replace(reason=f"{verdict.reason}; {refused}") if refused else verdict


def _refused(outcome: Outcome) -> str | None:
    """What the verdict does not speak of: it is about those that were served."""
    count = len(outcome.requests)
    if outcome.refused <= REFUSED * count:
        return None
    return f"{outcome.refused:,} of {count:,} requests were refused: no replica could be chosen, or had room for them"


def _judge(outcome: Outcome, scenario: Scenario, columns: Columns) -> Verdict:
    crowding = crowd(outcome, kinds(scenario))
    queue, prefill = Quantiles(columns.queue), Quantiles(columns.prefill)
    for reason in (
        _grows(columns, outcome.names),
        _flood(columns, queue, prefill),
        _crammed(outcome, crowding, queue, prefill),
    ):
        if reason:
            return Verdict("beyond", reason)
    reasons = _strained(outcome, columns, crowding, queue, prefill)
    if reasons:
        return Verdict("at", "; ".join(reasons))
    return Verdict("below", "waiting does not grow, queueing is short beside prefill, and the caches have room")


def _grows(columns: Columns, names: list[str]) -> str | None:
    """Why the wait grows with time: some replicas get more than they can do, or all of them do."""
    slopes: dict[int, float] = {}
    for index in range(len(names)) if len(names) > 1 else ():
        chosen = (columns.replica == index) | (columns.prefilled_by == index)
        slope = growth(columns.at[chosen], columns.wait[chosen], CHANCE_OF_ONE)
        if slope is not None:
            slopes[index] = slope
    others = ~(np.isin(columns.replica, list(slopes)) | np.isin(columns.prefilled_by, list(slopes)))
    everywhere = growth(columns.at[others], columns.wait[others], CHANCE)
    if slopes and everywhere is None and len(slopes) < len(names):
        worst = max(slopes, key=lambda index: slopes[index])
        more = f" and {len(slopes) - 1} more of {len(names)} replicas get" if len(slopes) > 1 else " gets"
        slope = slopes[worst]
        return (
            f"{names[worst]}{more} more than can be done there: each second of arrivals adds {slope:.2g} s of waiting"
        )
    slope = growth(columns.at, columns.wait, CHANCE)
    if slope is None:
        return None
    times = f"work comes in {1 + slope:.3g} times as fast as it is done"
    return f"each second of arrivals adds {slope:.2g} s of waiting: {times}"


def growth(at: Floats, wait: Floats, chance: float) -> float | None:
    """Seconds of wait that each second of arrivals adds, where that is more than chance; else None.

    Windows of equally many requests; the median slope between any two of them (Theil-Sen), so a burst that is worked
    off again is no trend. The last tenth must also wait for as long as such a slope would make it.
    """
    known = ~np.isnan(wait)
    at, wait = at[known], wait[known]
    if len(at) < LEAST_REQUESTS:
        return None
    period = float(at[-1] - at[0])
    if period <= 0.0:
        return None
    edges = [len(at) * place // WINDOWS for place in range(WINDOWS + 1)]
    spans = list(itertools.pairwise(edges))
    when = [_mean(at[low:high]) for low, high in spans]
    waited = [_mean(wait[low:high]) for low, high in spans]
    slopes = sorted(
        (waited[late] - waited[early]) / (when[late] - when[early])
        for late in range(WINDOWS)
        for early in range(late)
        if when[late] > when[early]
    )
    if not slopes:
        return None
    slope = slopes[len(slopes) // 2]
    least = max(LEAST_SLOPE, chance / math.sqrt(len(at)))
    return slope if slope > least and (waited[-1] + waited[-2]) / 2.0 > least * period else None


def _flood(columns: Columns, queue: Quantiles, prefill: Quantiles) -> str | None:
    """Why it is saturated although nothing grew: everything came at once."""
    if not columns.done.any():
        return None
    began, last = float(columns.at[0]), float(columns.at[-1])
    whole = float(np.nanmax(columns.ended)) - began
    if last - began > 0.1 * whole or queue.at(0.5) <= prefill.at(0.5):
        return None
    return f"all requests came within {time(last - began)}, and took {time(whole)} to answer"


def _crammed(outcome: Outcome, crowding: Crowding, queue: Quantiles, prefill: Quantiles) -> str | None:
    """Why a closed loop is saturated: its queue cannot grow, but more clients would only wait longer."""
    waited, own = queue.at(0.5), prefill.at(0.5)
    if not closed_loop(outcome) or not waited > QUEUE_TO_PREFILL * own:
        return None
    if crowding.kv_full >= MUCH or sum(outcome.requests.preemptions) > PREEMPTED * len(outcome.requests):
        cause = "the KV cache is full"
    elif crowding.slots_full >= MUCH:
        cause = "all slots are taken"
    else:
        cause = "prefills use up what decodes leave of each step"
    return (
        f"half of the requests wait {time(waited)} or more for a prefill of {time(own)}: {cause}. In a closed loop,"
        " where the next request is sent because the last was answered, that is what saturation looks like"
    )


def closed_loop(outcome: Outcome) -> bool:
    """Whether most requests were sent because another had been answered."""
    return 2 * outcome.followed > len(outcome.requests)


def _strained(
    outcome: Outcome, columns: Columns, crowding: Crowding, queue: Quantiles, prefill: Quantiles
) -> list[str]:
    """Signs of the knee, in words."""
    found = []
    if queue.at(0.9) > QUEUE_TO_PREFILL * prefill.at(0.9):
        found.append(f"p90 queueing ({time(queue.at(0.9))}) is well over p90 prefill ({time(prefill.at(0.9))})")
    growing = _too_short(outcome, columns)
    if growing:
        found.append(growing)
    if crowding.kv_full >= MUCH:
        found.append(f"the KV cache is full {crowding.kv_full:.0%} of the time")
    if crowding.slots_full >= MUCH:
        found.append(f"all slots are taken {crowding.slots_full:.0%} of the time")
    preemptions = int(columns.preemptions.sum())
    if preemptions > PREEMPTED * len(columns):
        found.append(f"{preemptions} preemptions for want of KV room")
    return found


def _too_short(outcome: Outcome, columns: Columns) -> str | None:
    """Why nothing can be said of a steady state: in the second half of the arrivals the fleet was still filling up."""
    # Who has no end was refused, unless the run was stopped: then those under way have none either.
    served = columns.done if not outcome.unfinished else columns.done | (columns.replica >= 0)
    if int(served.sum()) < LEAST_REQUESTS:
        return None
    sent = columns.at[served]
    last = float(sent[-1])
    middle = (float(sent[0]) + last) / 2.0
    arrived = int((sent > middle).sum())
    answered = int(((columns.ended > middle) & (columns.ended <= last)).sum())
    if arrived - answered <= max(STILL_GROWING * arrived, CHANCE * math.sqrt(arrived)):
        return None
    return (
        f"the requests under way were still growing in number when the last was sent ({arrived:,} came in the second"
        f" half, {answered:,} were answered): too short a run to tell whether the fleet keeps up"
    )


def crowd(outcome: Outcome, fleet: list[Kind]) -> Crowding:
    """How full the fleet was. A sample stands for the time since the one before it."""
    samples = outcome.samples
    if not samples:
        return Crowding(0.0, 0.0, 0.0, 0.0)
    usage = np.array([sample.kv_usage for sample in samples])
    running = np.array([sample.running for sample in samples])
    slots = np.array([kind.limits.max_num_seqs for kind in fleet])
    times = [sample.time for sample in samples]
    spans = [late - early for early, late in zip([times[0], *times], times, strict=False)]
    total = math.fsum(spans)
    weights = [span / total for span in spans] if total > 0.0 else [1.0 / len(spans)] * len(spans)

    def over_time(cells: npt.NDArray[Any]) -> float:
        means = [math.fsum(row) / len(row) for row in cells.tolist()]
        return math.fsum(weight * mean for weight, mean in zip(weights, means, strict=True))

    return Crowding(
        over_time(usage),
        float(usage.max()),
        over_time(usage >= FULL),
        over_time(running >= slots),
    )


def _mean(values: Floats) -> float:
    return math.fsum(values.tolist()) / len(values)
