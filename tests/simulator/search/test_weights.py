"""The search for weights, on a made-up landscape whose best point is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.case import Case, Source
from kvroute.simulator.search.load import Level
from kvroute.simulator.search.weights import DEFAULT, PLAIN, Task, Tuner, Weights, judge
from tests.simulator.search.summaries import summary

BEST = {"queue": 3.0, "wait": 1.0, "congestion": 0.5, "share": 0.2}
TASK = Task(
    source=Source("shared-prefix", requests=40),
    scenario=Scenario((Kind(),), seed=3),
    levels=[Level("low"), Level("high", rate=20.0)],
    seeds=[3, 4],
    objective="ttft_p90",
    slo=None,
    trials=24,
    train=0.5,
    random=True,
)


class Landscape:
    """TTFT grows with the distance to the best weights; what is asked is kept."""

    def __init__(self, held_out: float = 0.0) -> None:
        self.asked: list[Case] = []
        self._held_out = held_out
        """Added to everything but the default on the part held out."""

    def __call__(self, cases: Sequence[Case]) -> list[Summary]:
        self.asked += cases
        return [summary(ttft_p90=self._at(case)) for case in cases]

    def _at(self, case: Case) -> float:
        options = case.scenario.policy.options
        weights = DEFAULT | options
        distance = sum(abs(math.log(weights[name] / BEST[name])) for name in BEST)
        assert case.source.part is not None
        worse = self._held_out if options and case.source.part[0] > 0.0 else 0.0
        return 1.0 + 0.1 * distance + 0.01 * case.scenario.seed + worse


def test_it_comes_close_to_the_best_weights() -> None:
    """Closer than the default is, and never on the part held out."""
    landscape = Landscape()
    tuner = Tuner(TASK, landscape)
    found = msgspec.structs.asdict(tuner.best())
    distance = sum(abs(math.log(found[name] / BEST[name])) for name in BEST)
    assert distance < 0.5 * sum(abs(math.log(DEFAULT[name] / BEST[name])) for name in BEST)
    assert all(case.source.part is not None and case.source.part[1] <= 0.5 for case in landscape.asked)
    assert {case.source.part for case in landscape.asked} == {(0.0, 0.125), (0.0, 0.25), (0.0, 0.5)}


def test_the_same_seed_tries_the_same() -> None:
    """In the same order, each only once."""
    first, second = Landscape(), Landscape()
    assert Tuner(TASK, first).best() == Tuner(TASK, second).best()
    labels = [case.label for case in first.asked]
    assert labels == [case.label for case in second.asked]
    assert len(labels) == len(set(labels))


def test_judged_on_other_requests() -> None:
    """The last part, with seeds that the search has not seen."""
    landscape = Landscape()
    verdict, relative, held = judge(TASK, Weights(**BEST), landscape)
    assert verdict == "better"
    assert relative is not None
    assert relative < 0.0
    assert {case.source.part for case in landscape.asked} == {(0.5, 1.0)}
    assert {case.scenario.seed for case in landscape.asked} == {5, 6, 7, 8, 9, 10}
    assert [one.level for one in held] == ["low", "high"]


def test_what_was_fitted_to_chance_is_found_out() -> None:
    """Better where it was searched, worse where it was not."""
    assert judge(TASK, Weights(**BEST), Landscape(held_out=1.0))[0] == "worse"
    assert judge(TASK, PLAIN, Landscape())[0] == "not shown"


def test_a_trace_is_judged_in_pieces() -> None:
    """Where seeds change nothing, repeating the same requests would show any difference at all."""
    task = msgspec.structs.replace(TASK, random=False)
    landscape = Landscape()
    judge(task, Weights(**BEST), landscape)
    parts = sorted({case.source.part for case in landscape.asked if case.source.part is not None})
    assert len(parts) == 6
    assert (parts[0][0], parts[-1][1]) == (0.5, 1.0)
    assert {case.scenario.seed for case in landscape.asked} == {3}
