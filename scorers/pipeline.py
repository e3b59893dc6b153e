"""The pipeline: a policy that adds up scorers' seconds and takes the smallest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from kvroute.scorers.adapter import Adapter
from kvroute.scorers.congestion import Congestion
from kvroute.scorers.contract import Candidates, Floats, Request, Scorer, Standing
from kvroute.scorers.fused import FusedSum, Table, predicted_start
from kvroute.scorers.guard import GuardedScorer, OnFault, ignore_fault
from kvroute.scorers.interference import Interference
from kvroute.scorers.prefill import Prefill
from kvroute.scorers.queue import Queue
from kvroute.scorers.role import RoleFilter
from kvroute.scorers.ties import pick, pick_of_columns, pick_of_rows
from kvroute.scorers.wait import Wait

FEW = 16
"""Up to this many candidates a Python loop is quicker than numpy."""

OURS = "kvroute"
_CHOSEN = int(Standing.CHOSEN)


ChooseFew: TypeAlias = Callable[[Request, list[float], list[list[float]], "Floats | None"], int]
"""(request, tokens held per candidate, each candidate's column of the table, adapter residency) -> index or -1."""
ChooseMany: TypeAlias = Callable[[Request, Floats, Sequence[Floats], "Floats | None", Table], int]
"""(request, tokens held, `Standing` as columns, adapter residency, what gives the table) -> index or -1."""
StandingOf: TypeAlias = Callable[[Sequence[float]], Sequence[float]]
"""A replica's column of the table -> its `Standing`."""


class Weighted(msgspec.Struct, frozen=True):
    """A scorer's place in a pipeline. `distribution` is the package that it came from."""

    scorer: Scorer
    weight: float = 1.0
    name: str = ""
    distribution: str = OURS


class Pipeline:
    """Adds up the scorers' seconds, each times its weight, and chooses by `ties.pick`.

    Weight 0 removes a scorer. The built-in ones are computed fused; the others are asked one by one, and one that
    fails is reported to `on_fault` and contributes nothing.

    Raises:
        ValueError: a weight is negative or not finite, or two scorers have the same name.
    """

    __slots__ = ("_extras", "_fused", "_on_fault", "scorers")

    def __init__(self, scorers: Iterable[Weighted], on_fault: OnFault = ignore_fault) -> None:
        named = [_named(one) for one in scorers]
        if len({one.name for one in named}) != len(named):
            raise ValueError(f"two scorers have the same name: {', '.join(one.name for one in named)}")
        self.scorers: tuple[Weighted, ...] = tuple(one for one in named if one.weight > 0.0)
        """What is added up, in order."""
        self._on_fault = on_fault
        self._fused = _fuse(self.scorers)
        self._extras = [(self._guarded(one), one) for one in self.scorers if type(one.scorer) not in BUILT_IN]

    def _guarded(self, one: Weighted) -> GuardedScorer:
        return GuardedScorer(one.scorer, one.name, one.distribution, self._on_fault)

    def with_scorers(self, scorers: Sequence[Weighted], on_fault: OnFault = ignore_fault) -> Pipeline:
        """This pipeline with more scorers; one whose name is here already takes that one's place."""
        replaced = {one.name for one in map(_named, scorers)}
        return Pipeline([*(one for one in self.scorers if one.name not in replaced), *scorers], on_fault)

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the cheapest candidate, or -1 when each costs inf."""
        return pick(self.totals(request, candidates, now), candidates)

    @property
    def choose_few(self) -> ChooseFew | None:
        """`choose` for a few candidates given as lists, without numpy; None where a scorer needs the columns."""
        return None if self._extras else self._choose_few

    def _choose_few(self, request: Request, hits: list[float], rows: list[list[float]], resident: Floats | None) -> int:
        totals = self._fused.of_rows(request, request.tokens, hits, rows, resident)
        return pick_of_rows(totals, hits, rows)

    @property
    def choose_many(self) -> tuple[StandingOf, ChooseMany] | None:
        """`choose` for many candidates from what was derived of each before; None where a scorer needs the columns."""
        return None if self._extras else (self._fused.standing_of, self._choose_many)

    def _choose_many(
        self, request: Request, hits: Floats, standings: Sequence[Floats], resident: Floats | None, table: Table
    ) -> int:
        totals = self._fused.of_standings(request, hits, standings, resident, table)
        return pick_of_columns(totals, hits, standings[_CHOSEN])

    def totals(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """The weighted sum for each candidate, shape (n,) [seconds]."""
        total = self._fused.of_columns(request, candidates)
        for guarded, one in self._extras:
            seconds = guarded.seconds(request, candidates, now)
            if seconds is not None:
                total += seconds if one.weight == 1.0 else one.weight * seconds
        return total

    def breakdown(self, request: Request, candidates: Candidates, now: float) -> dict[str, Floats]:
        """What each scorer adds to each candidate, weights included: by name, in order, shape (n,) [seconds].

        Computed one by one, so for explanations only. A scorer that fails is left out.
        """
        answers: dict[str, Floats] = {}
        for one in self.scorers:
            seconds = self._guarded(one).seconds(request, candidates, now)
            if seconds is not None:
                answers[one.name] = one.weight * seconds
        return answers

    def predicted_start(self, request: Request, candidates: Candidates, index: int, now: float) -> float:
        """Predicted seconds until the first token at one candidate: the unweighted sum of all start parts.

        The built-in start parts count whatever their weight; of the others those that the pipeline has.
        """
        start = predicted_start(request, candidates, index)
        for guarded, one in self._extras:
            if one.scorer.part == "start":
                seconds = guarded.seconds(request, candidates, now)
                if seconds is not None:
                    start += seconds.item(index)
        return start


def _named(one: Weighted) -> Weighted:
    name = one.name or type(one.scorer).__name__.lower()
    if not 0.0 <= one.weight < math.inf:
        raise ValueError(f"the weight of {name} must be a number >= 0, not {one.weight}")
    return one if one.name else msgspec.structs.replace(one, name=name)


BUILT_IN: tuple[type, ...] = (Queue, Wait, Prefill, Congestion, Interference, Adapter, RoleFilter)


def _fuse(scorers: Iterable[Weighted]) -> FusedSum:
    """The weights of the built-in scorers among these."""
    weights = dict.fromkeys(BUILT_IN, 0.0)
    for one in scorers:
        kind = type(one.scorer)
        if kind in weights:
            weights[kind] += one.weight * (one.scorer.share if isinstance(one.scorer, Interference) else 1.0)
    return FusedSum(
        queue=weights[Queue],
        wait=weights[Wait],
        prefill=weights[Prefill],
        congestion=weights[Congestion],
        interference=weights[Interference],
        adapter=weights[Adapter],
        role=weights[RoleFilter] > 0.0,
    )
