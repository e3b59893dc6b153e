"""How many replicas a load needs, and how much load replicas take, for each kind of fleet that was asked about."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from kvroute.scorers.contract import Role
from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.reports.cells import REGIMES
from kvroute.simulator.reports.measures import COMPARED, JUDGED, value
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.case import Case, Evaluate, Source
from kvroute.simulator.search.frontier import Frontier, fewest, greatest
from kvroute.simulator.search.load import Knob, beginning, knob_of, level
from kvroute.simulator.search.seeds import seeded
from kvroute.simulator.search.sent import sent

MOST_SPLITS = 8
"""Splits of a fleet into roles that are tried; of larger fleets an even choice."""
LONGER = 4
"""Times as many requests with which an answer is tried once more before it is given."""
SPAN = 10.0
"""Times a slow answer's own time (p90) for which requests must come, at least: while the first are still being
answered, no fleet looks overloaded."""
MOST_REQUESTS = 200_000
"""In one run, for that reason."""


class Variant(msgspec.Struct, frozen=True):
    """One make of fleet."""

    name: str
    kind: Kind
    price: float | None = None
    """Of one replica, in whatever unit the user counts."""


class Point(msgspec.Struct, frozen=True):
    """One fleet at one load: means over the seeds."""

    replicas: int
    load: float | None
    """Rate [1/s], speedup or clients; None: as the workload has it."""
    met: bool
    """The SLO, with every seed, by a fleet that keeps up: where work comes in faster than it is done, any SLO is only
    met until the run ends."""
    saturated: bool
    """With any seed."""
    regime: str
    """The worst of its runs."""
    requests: int
    """That were sent, with each seed."""
    sent: float | None
    """A second."""
    figures: dict[str, float]
    prefill: int | None = None
    """Replicas that only prefill; the others only decode. None: all do both."""


class Answer(msgspec.Struct, frozen=True):
    """What was found for one variant."""

    variant: str
    cache_tokens: int
    """Of each replica."""
    replicas: int | None
    """Fewest that meet the SLO, or the number asked about; None: not even the most allowed do."""
    load: float | None
    """Greatest load that they take, where that was the question: rate [1/s], speedup or clients."""
    knob: Knob | None
    cost: float | None
    """Replicas times price."""
    monotone: bool
    """False: some run contradicts that more replicas, or less load, is better; the curve shows which."""
    bounded: bool
    """The true greatest load lies above the one given: no load tried was too much."""
    curve: list[Point]
    """All that was tried, ascending."""
    splits: list[Point] = []
    """Roles: all splits tried at the fewest replicas with which one of them, or all doing both, meets the SLO."""
    best_split: Point | None = None
    """The best of them; its `prefill` is None where doing both is best."""
    requests: int | None = None
    """Of the longer runs that it was tried once more with; None: it rests on as many as asked for."""
    too_short: int | None = None
    """Requests that it would take to trust the answer, where --requests asked for fewer."""

    @property
    def title(self) -> str:
        """What sets it apart from the plan's other answers."""
        return self.variant if self.knob is None else f"{self.replicas} x {self.variant}"

    @property
    def able(self) -> bool:
        """Whether there is an answer."""
        return self.replicas is not None and (self.knob is None or self.load is not None)


class Plan(msgspec.Struct, frozen=True):
    """What is told of a plan."""

    workload: str
    policy: str
    slo: str
    rate: float | None
    speedup: float
    seeds: list[int]
    answers: list[Answer]
    cheapest: str | None
    """The answer with the least cost, where prices were given, else with the fewest replicas; where load was the
    question, for the load that it takes."""
    unfinished: bool = False
    """It was stopped early: variants whose search had not begun are left out."""
    so_far: Answer | None = None
    """What was tried of the variant whose search had not ended."""


class Planner:
    """Asks about one variant after another, with one workload and one SLO."""

    def __init__(self, source: Source, scenario: Scenario, seeds: Sequence[int], slo: str, evaluate: Evaluate) -> None:
        self._source = source
        self._scenario = scenario
        self._seeds = seeds
        self._slo = slo
        self._evaluate = evaluate
        self._open: tuple[Variant, Knob | None] | None = None
        self._curve: list[Point] = []
        self._requests: int | None = None
        """So many, instead of what the source has."""
        self._closed = knob_of(source) == "concurrency"

    def so_far(self) -> Answer | None:
        """What was tried of a variant whose search has begun and not ended."""
        if self._open is None or not self._curve:
            return None
        variant, knob = self._open
        curve = sorted(self._curve, key=lambda point: (point.load or 0.0, point.replicas, point.prefill or 0))
        return msgspec.structs.replace(self._answer(variant, Frontier(None, True), curve), knob=knob)

    def fewest(self, variant: Variant, most: int, *, roles: bool = False) -> Answer:
        """The fewest replicas of that variant that meet the SLO, `most` at the most."""
        self._begin(variant, None)
        curve: dict[int, Point] = {}

        def meets(counts: Sequence[int]) -> list[bool]:
            points = self._points([(count, None, None) for count in counts], variant)
            curve.update(zip(counts, points, strict=True))
            return [point.met for point in points]

        found = fewest(meets, most)
        if self._lengthened(curve.get(found.answer or 0)) and found.answer and not all(meets([found.answer])):
            found = fewest(meets, most, found.answer + 1)
        answer = self._answer(variant, found, [curve[count] for count in sorted(curve)], curve.get(found.answer or 0))
        answer = msgspec.structs.replace(answer, replicas=found.answer)
        if roles:
            answer = self._with_roles(variant, answer, curve, most)
        self._open = None
        return msgspec.structs.replace(answer, cost=_cost(answer.replicas, variant))

    def greatest(self, variant: Variant, replicas: int) -> Answer:
        """The greatest load that so many replicas of that variant take within the SLO."""
        knob = knob_of(self._source)
        self._begin(variant, knob)
        curve: dict[float, Point] = {}

        def meets(loads: Sequence[float]) -> list[bool]:
            points = self._points([(replicas, load, None) for load in loads], variant, knob)
            curve.update(zip(loads, points, strict=True))
            return [point.met for point in points]

        whole = knob == "concurrency"
        found = greatest(meets, self._guess(variant, replicas, knob), whole=whole)
        if self._lengthened(curve.get(found.answer or 0.0)) and found.answer and not all(meets([found.answer])):
            found = greatest(meets, found.answer / 2, whole=whole, failing=found.answer)
        # What short runs met above the answer, longer ones would not: it is no part of the curve.
        kept = [curve[load] for load in sorted(curve) if not self._belied(curve[load], found.answer)]
        answer = self._answer(variant, found, kept, curve.get(found.answer or 0.0))
        self._open = None
        return msgspec.structs.replace(
            answer, replicas=replicas, load=found.answer, knob=knob, cost=_cost(replicas, variant)
        )

    def _begin(self, variant: Variant, knob: Knob | None) -> None:
        self._open, self._curve, self._requests = (variant, knob), [], None

    def _lengthened(self, point: Point | None) -> bool:
        """Whether runs are longer from now on, so that the answer that rests on this point can be tried once more."""
        if point is None or not self._source.endless:
            return False
        self._requests = min(max(LONGER * point.requests, _enough(point)), MOST_REQUESTS)
        return self._requests > point.requests

    def _belied(self, point: Point, answer: float | None) -> bool:
        """Met by a short run at a load at which the fleet does not keep up for longer."""
        short = self._requests is not None and point.requests < self._requests
        return short and point.met and point.load is not None and point.load > (answer or 0.0)

    def _guess(self, variant: Variant, replicas: int, knob: Knob) -> float:
        """Where to begin: what the workload has, or the rate at which the fleet completed it."""
        guess = beginning(self._source, knob)
        if guess is not None:
            return guess
        label = f"{replicas} x {variant.name}, to begin with"
        (run,) = self._evaluate([Case(label, self._source, self._fleet(variant.kind, replicas, None))])
        return run.throughput_requests or 1.0

    def _with_roles(self, variant: Variant, answer: Answer, curve: dict[int, Point], most: int) -> Answer:
        """Whether prefill and decode apart need fewer replicas than all doing both, or do better with as many.

        From the fewest of replicas that do both (or the most allowed) downwards, for as long as a split meets the SLO.
        """
        count = answer.replicas or most
        tried: list[Point] = []
        best: Point | None = None
        while count >= 2:
            points = self._points([(count, None, prefill) for prefill in _splits(count)], variant)
            if best is not None and not any(point.met for point in points):
                break
            tried = [*points, *([curve[count]] if count in curve else [])]
            best = min(tried, key=self._order)
            if not best.met:
                break
            count -= 1
        fewer = best.replicas if best is not None and best.met else answer.replicas
        return msgspec.structs.replace(answer, splits=tried, best_split=best, replicas=fewer)

    def _order(self, point: Point) -> tuple[bool, float, float]:
        """The better first: the SLO met, more good requests, an earlier first token."""
        figures = point.figures
        return (not point.met, -figures.get("slo_share", 0.0), figures.get("ttft_p90", math.inf))

    def _points(
        self, asked: Sequence[tuple[int, float | None, int | None]], variant: Variant, knob: Knob = "rate"
    ) -> list[Point]:
        """Make the runs of these (replicas, load, prefill replicas) together."""
        cases = []
        for replicas, load, prefill in asked:
            source = self._source if load is None else level(knob, load).of(self._source)
            if self._requests is not None:
                source = msgspec.structs.replace(source, requests=self._requests)
            label = label_of(replicas, variant.name, load, prefill, self._requests)
            cases.append(seeded(label, source, self._fleet(variant.kind, replicas, prefill), self._seeds, self._slo))
        answers = iter(self._evaluate([case for one in cases for case in one]))
        points = []
        for (replicas, load, prefill), of_seeds in zip(asked, cases, strict=True):
            runs = [next(answers) for _ in of_seeds]
            points.append(self._point(replicas, load, prefill, runs))
            if points[-1].met and not self._closed:
                _refuse_too_little(of_seeds, runs)
        self._curve += points
        return points

    def _fleet(self, kind: Kind, replicas: int, prefill: int | None) -> Scenario:
        return msgspec.structs.replace(self._scenario, replicas=fleet(kind, replicas, prefill))

    def _point(self, replicas: int, load: float | None, prefill: int | None, runs: Sequence[Summary]) -> Point:
        figures = {}
        for name in (*COMPARED, *JUDGED):
            known = [number for number in (value(run, name) for run in runs) if math.isfinite(number)]
            if known:
                figures[name] = math.fsum(known) / len(known)
        rates = [run.offered_rate for run in runs]
        # In a closed loop nothing grows: what is met stays met.
        saturated = any(run.saturated for run in runs)
        return Point(
            replicas=replicas,
            load=load,
            met=all(run.slo_met for run in runs) and (self._closed or not saturated),
            saturated=saturated,
            regime=max((run.regime for run in runs), key=REGIMES.index),
            requests=max(run.requests for run in runs),
            sent=None if None in rates else math.fsum(rate or 0.0 for rate in rates) / len(rates),
            figures=figures,
            prefill=prefill,
        )

    def _answer(
        self,
        variant: Variant,
        found: Frontier[int] | Frontier[float],
        curve: list[Point],
        point: Point | None = None,
    ) -> Answer:
        """`point`: what the answer rests on."""
        short = point is not None and self._source.requests is not None and point.requests < _enough(point)
        return Answer(
            requests=None if point is None else self._requests,
            too_short=_enough(point) if point is not None and short else None,
            variant=variant.name,
            cache_tokens=variant.kind.cache_tokens,
            replicas=None,
            load=None,
            knob=None,
            cost=None,
            monotone=found.monotone,
            bounded=found.bounded,
            curve=curve,
        )


def fleet(kind: Kind, replicas: int, prefill: int | None = None) -> tuple[Kind, ...]:
    """So many of a kind; with `prefill`, that many of them only prefill and the others only decode."""
    if prefill is None:
        return (kind,) * replicas
    first = msgspec.structs.replace(kind, role=Role.PREFILL)
    return (first,) * prefill + (msgspec.structs.replace(kind, role=Role.DECODE),) * (replicas - prefill)


def label_of(replicas: int, variant: str, load: float | None, prefill: int | None, requests: int | None = None) -> str:
    """What runs of that fleet are called, before their seed. `requests`: where they are more than in other runs."""
    roles = "" if prefill is None else f", {prefill} of them prefill"
    longer = "" if requests is None else f", {requests:,} requests"
    return f"{replicas} x {variant}" + ("" if load is None else f" at {load:g}") + roles + longer


def chosen_label(answer: Answer) -> str:
    """How the labels of the runs begin that an answer rests on; of no answer those of the last try."""
    split = answer.best_split
    prefill = split.prefill if split is not None and split.met else None
    last = answer.curve[-1]
    replicas = last.replicas if answer.replicas is None else answer.replicas
    load = None if answer.knob is None else answer.curve[0].load if answer.load is None else answer.load
    return label_of(replicas, answer.variant, load, prefill, answer.requests) + ", seed "


def cheapest(answers: Sequence[Answer]) -> str | None:
    """The variant to take: least cost, else fewest replicas, else greatest load; the first of equals."""
    able = [one for one in answers if one.able]
    if not able:
        return None

    def order(one: Answer) -> tuple[float, float]:
        spent = one.cost if one.cost is not None else float(one.replicas or 0)
        return (spent / one.load if one.load else spent, -(one.load or 0.0))

    return min(able, key=order).title


def _splits(count: int) -> list[int]:
    """Numbers of prefill replicas to try."""
    if count - 1 <= MOST_SPLITS:
        return list(range(1, count))
    return sorted({1 + (count - 2) * i // (MOST_SPLITS - 1) for i in range(MOST_SPLITS)})


def _cost(replicas: int | None, variant: Variant) -> float | None:
    return None if replicas is None or variant.price is None else replicas * variant.price


def _refuse_too_little(cases: Sequence[Case], runs: Sequence[Summary]) -> None:
    """What meets the SLO because it was hardly sent is no answer.

    Raises:
        WorkloadError: says how many requests would do.
    """
    for case, run in zip(cases, runs, strict=True):
        found = sent(case.source, run)
        if found is not None and found.too_little:
            raise WorkloadError(f"{case.label}: no plan can be made from this: {found.text()}")


def _enough(point: Point) -> int:
    """Requests that come for long enough to see whether the fleet keeps up with them."""
    sent, slow = point.sent or 0.0, point.figures.get("e2e_p90", 0.0)
    return math.ceil(SPAN * slow * sent)
