"""A kind of replica fitted to measured closed loops, with what the fit says of points that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.latency.bounded import Matrix, Vector, robust
from kvroute.simulator.latency.closedloop import Loop, Means, means
from kvroute.simulator.latency.kind import Ingress, Kind
from kvroute.simulator.latency.measured import Group, Point
from kvroute.simulator.latency.roofline import Efficiency, step_time

PEAK = Efficiency(
    compute=1.0, memory=1.0, cache=1.0, attention=1.0, experts=1.0, launch=0.0, layer=0.0, routing=0.0, reduction=0.0,
    link=1.0, sequence=0.0,
)  # fmt: skip
"""The datasheet as if it were kept; no engine is ahead of it."""
SEATS = 1024
"""`max_num_seqs`: vLLM's default on GPUs of this size."""


class Errors(msgspec.Struct, frozen=True):
    """Absolute errors as shares of what was measured, over points."""

    ttft_median: float
    ttft_p90: float
    tpot_median: float
    tpot_p90: float
    points: int


class Fitted(msgspec.Struct, frozen=True):
    """One fit."""

    kind: Kind
    seen: Errors
    """On the points that it was fitted to."""
    unseen: Errors
    """Each point predicted by a fit without it."""


def fit(group: Group) -> Fitted | None:
    """Fit the coefficients of a group; None where fewer than eight points, or one length of prompt only, are left."""
    points = [point for point in group.points if not group.crowded(point)]
    if len(points) < 8 or len({point.prompt for point in points}) < 2:
        return None
    loops = [work(group, point) for point in points]
    low, high = _bounds(group)
    step, ingress = _solve(points, loops, low, high)
    seen = errors([(_predict(step, ingress, m, p), p) for m, p in zip(loops, points, strict=True)])
    held_out = []
    for index, point in enumerate(points):
        rest = [*range(index), *range(index + 1, len(points))]
        without = _solve([points[i] for i in rest], [loops[i] for i in rest], low, high)
        held_out.append((_predict(*without, loops[index], point), point))
    unseen = errors(held_out)
    step = msgspec.structs.replace(step, budget=group.budget)
    limits = Limits(
        blocks=int(group.room) // 16 + 1, block_size=16, max_num_seqs=SEATS, max_num_batched_tokens=group.budget
    )
    kind = Kind(
        name=group.name,
        step=step,
        limits=limits,
        ingress=ingress,
        kv_bytes_per_token=group.sizes.kv_values * group.kv_bytes,
        link_bytes_per_second=25e9,
        source=_source(group, unseen),
    )
    return Fitted(kind, seen, unseen)


@cache
def _counted(loop: Loop) -> Means:
    return means(loop, np.random.default_rng(7))


def work(group: Group, point: Point) -> Means:
    """The steps behind a point."""
    loop = Loop(
        point.prompt,
        point.output,
        point.concurrency,
        budget=group.budget,
        seats=SEATS,
        spread=group.spread,
        late=group.late,
    )
    return _counted(loop)


def errors(pairs: Sequence[tuple[tuple[float, float], Point]]) -> Errors:
    """Of predicted (TTFT, TPOT) [s]."""
    ttft = sorted(abs(guess[0] / point.ttft - 1) for guess, point in pairs)
    tpot = sorted(abs(guess[1] / point.tpot - 1) for guess, point in pairs)
    return Errors(_at(ttft, 0.5), _at(ttft, 0.9), _at(tpot, 0.5), _at(tpot, 0.9), len(pairs))


def predict(kind: Kind, group: Group, point: Point) -> tuple[float, float]:
    """Mean TTFT and TPOT of a loop at a replica of some kind, where its cache has room for it [s]."""
    return _predict(kind.step, kind.ingress, work(group, point), point)


def _predict(step: StepTime, ingress: Ingress, loop: Means, point: Point) -> tuple[float, float]:
    ttft, tpot = loop.seconds(step)
    return ttft + ingress.reply, tpot


def _bounds(group: Group) -> tuple[Vector, Vector]:
    """What the datasheet allows: no fit to short prompts may promise, or threaten, too much for long ones."""
    peak = step_time(
        group.sizes, group.gpu, tp=group.tp, precision=group.precision, kv_bytes=group.kv_bytes, efficiency=PEAK
    )
    token = 2.0 * group.sizes.active / (group.tp * group.gpu.rate(group.precision))
    low = np.array([1e-4, 0.0, 0.8 * peak.c2, 1.1 * token, peak.c4, 1e-3])
    return low, np.array([math.inf, math.inf, 5 * peak.c2, math.inf, 4 * peak.c4, 0.2])


def _solve(points: Sequence[Point], loops: Sequence[Means], low: Vector, high: Vector) -> tuple[StepTime, Ingress]:
    x = robust(*_system(points, loops), low, high)
    c0, c1, c2, c3, c4, reply = (float(f"{value:.4g}") for value in x)
    return StepTime(c0, c1, c2, c3, c4), Ingress(reply=reply)


def _system(points: Sequence[Point], loops: Sequence[Means]) -> tuple[Matrix, Vector]:
    rows = []
    for point, loop in zip(points, loops, strict=True):
        rows.append([value / point.ttft for value in (*loop.ttft, 1.0)])
        rows.append([value / point.tpot for value in (*loop.tpot, 0.0)])
    return np.array(rows), np.ones(len(rows))


def _at(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _source(group: Group, unseen: Errors) -> str:
    version = f" {group.version}" if group.version else ""
    rough = "rough: " if unseen.tpot_median > 0.1 or unseen.ttft_median > 0.2 else ""
    return (
        f"{rough}fitted to {unseen.points} measured points of vLLM{version}, hold-out TPOT {unseen.tpot_median:.0%}"
        f" (p90 {unseen.tpot_p90:.0%}), TTFT {unseen.ttft_median:.0%} (p90 {unseen.ttft_p90:.0%})"
    )
