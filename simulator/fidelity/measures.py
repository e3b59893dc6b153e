"""What is compared between a real run and a simulated one, and how near it has to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from kvroute.simulator.fidelity.recording import Timed

GOALS = {
    "ttft_mean": 0.10,
    "ttft_p90": 0.20,
    "tpot_mean": 0.05,
    "tpot_p90": 0.05,
    "e2e_mean": 0.05,
    "e2e_p90": 0.05,
    "throughput_requests": 0.03,
    "throughput_tokens": 0.03,
}
"""Largest relative error that is good enough."""


class Measure(msgspec.Struct, frozen=True):
    """One quantity, real and simulated; seconds, or per second."""

    real: float
    simulated: float
    error: float
    """simulated / real - 1"""
    goal: float | None
    met: bool | None
    """Whether |error| <= goal; None: nothing was asked of it."""


class Times(msgspec.Struct, frozen=True):
    """When requests were served, real or simulated: one number a request [s]."""

    scheduled: Sequence[float | None]
    first: Sequence[float]
    last: Sequence[float]


def times_of(requests: Sequence[Timed]) -> Times:
    """As recorded."""
    return Times([r.scheduled for r in requests], [r.first for r in requests], [r.last for r in requests])


def compare(requests: Sequence[Timed], simulated: Times, judged: Sequence[int]) -> dict[str, Measure]:
    """Every measure over the requests `judged`."""
    real = measure(requests, times_of(requests), judged)
    ours = measure(requests, simulated, judged)
    return {name: _measured(name, value, ours[name]) for name, value in real.items() if name in ours}


def measure(requests: Sequence[Timed], times: Times, judged: Sequence[int]) -> dict[str, float]:
    """Each measure's value [s, or per second] over the requests `judged`."""
    ttft = [times.first[i] - requests[i].arrival for i in judged]
    e2e = [times.last[i] - requests[i].arrival for i in judged]
    tpot = [
        (times.last[i] - times.first[i]) / (requests[i].output_tokens - 1)
        for i in judged
        if requests[i].output_tokens > 1
    ]
    queue = [s - requests[i].arrival for i in judged if (s := times.scheduled[i]) is not None]
    found = {
        "ttft_mean": mean(ttft),
        "ttft_p50": percentile(ttft, 0.5),
        "ttft_p90": percentile(ttft, 0.9),
        "ttft_p99": percentile(ttft, 0.99),
    }
    if tpot:
        found |= {"tpot_mean": mean(tpot), "tpot_p50": percentile(tpot, 0.5), "tpot_p90": percentile(tpot, 0.9)}
    found |= {"e2e_mean": mean(e2e), "e2e_p50": percentile(e2e, 0.5), "e2e_p90": percentile(e2e, 0.9)}
    if len(queue) == len(judged):
        found["queue_mean"] = mean(queue)
    took = max(times.last[i] for i in judged) - min(requests[i].arrival for i in judged)
    found["throughput_requests"] = len(judged) / took
    found["throughput_tokens"] = sum(requests[i].output_tokens for i in judged) / took
    return found


def misfit(requests: Sequence[Timed], simulated: Times, over: Sequence[int]) -> float:
    """How far the simulated times of single requests are from the real ones: relative errors of TTFT, TPOT and E2E."""
    parts: list[Callable[[Times, int], float]] = [
        lambda t, i: t.first[i] - requests[i].arrival,
        lambda t, i: t.last[i] - requests[i].arrival,
        lambda t, i: (t.last[i] - t.first[i]) / max(1, requests[i].output_tokens - 1),
    ]
    real = times_of(requests)
    total = 0.0
    for part in parts:
        size = math.fsum(part(real, i) for i in over)
        total += math.fsum(abs(part(simulated, i) - part(real, i)) for i in over) / max(size, 1e-9)
    return total / len(parts)


def worst(of: Sequence[dict[str, Measure]]) -> dict[str, Measure]:
    """For each measure the one with the largest error."""
    names = list(dict.fromkeys(name for one in of for name in one))
    return {name: max((one[name] for one in of if name in one), key=lambda m: (abs(m.error), m.real)) for name in names}


def mean(values: Sequence[float]) -> float:
    """By exact summation."""
    return math.fsum(values) / len(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _measured(name: str, real: float, simulated: float) -> Measure:
    error = simulated / real - 1.0 if real > 0.0 else (0.0 if simulated == real else math.inf)
    goal = GOALS.get(name)
    return Measure(real, simulated, error, goal, None if goal is None else abs(error) <= goal)
