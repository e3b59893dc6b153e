"""Weights of the default policy's scorers for one workload: searched on its first part, judged on the rest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec
import numpy as np

from kvroute.scorers.interference import LATENCY_SHARE
from kvroute.scorers.plugins import PolicySpec
from kvroute.simulator.reports.cells import Cell, cell, difference
from kvroute.simulator.reports.measures import better, value
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.case import Case, Evaluate, Source
from kvroute.simulator.search.load import Level
from kvroute.simulator.search.seeds import seeded

DEFAULT = {"queue": 1.0, "wait": 1.0, "congestion": 1.0, "share": LATENCY_SHARE}
"""What is searched. The weight of `prefill` stays 1: the smallest sum does not change when all weights are scaled.
The weight of `interference` stays 1 too: it only multiplies `share`."""
SPAN = 16.0
"""Weights between default / SPAN and default * SPAN are drawn, evenly in their logarithm."""
KEPT = 3
"""One candidate in so many goes on to the next, longer round."""
ROUNDS = 3
JUDGED = 6
"""Runs, at least, of each candidate on the part held out, at each load."""
STEPS = (2.5, 1.6, 1.25)
"""Factors by which single weights of the best candidate are changed at the end, coarse to fine."""
POLISHED = 6
"""At most so many rounds of that."""
LEAST = 1e-9
"""Where a measure is 0: no request was good."""


class Weights(msgspec.Struct, frozen=True):
    """One candidate."""

    queue: float
    wait: float
    congestion: float
    share: float

    def policy(self) -> PolicySpec:
        """The policy with these weights; the plain `latency` where they are its own."""
        own = {name: weight for name, weight in msgspec.structs.asdict(self).items() if weight != DEFAULT[name]}
        return PolicySpec("latency", own)


PLAIN = Weights(**DEFAULT)


class Trial(msgspec.Struct, frozen=True):
    """A candidate on the training part."""

    weights: Weights
    share: float
    """Of the training part that it was tried on [0..1]."""
    score: float
    """Mean over loads and seeds of log(measure / the default's), positive where better."""


class Held(msgspec.Struct, frozen=True):
    """Default and tuned on what the search has not seen, at one load."""

    level: str
    default: Cell
    tuned: Cell


class Tuning(msgspec.Struct, frozen=True):
    """What is told of a search."""

    workload: str
    objective: str
    slo: str | None
    seeds: list[int]
    trained_on: str
    judged_on: str
    default: Weights
    found: Weights
    """The best on the training part, as far as it was searched."""
    verdict: str
    """better, worse or "not shown", on the part that was held out."""
    relative: float | None
    """Change of the objective there, over all loads, as a share of the default's."""
    chosen: Weights
    """`found` where it is better on the part held out; else the default."""
    held: list[Held]
    trials: list[Trial]
    """In the order tried."""
    unfinished: bool = False
    """It was stopped early: there is no verdict, so the default was kept."""


class Task(msgspec.Struct, frozen=True):
    """What is to be tuned."""

    source: Source
    scenario: Scenario
    levels: list[Level]
    seeds: list[int]
    objective: str
    slo: str | None
    trials: int
    train: float
    """Share of the workload to search on; the rest is held out."""
    random: bool
    """Another seed makes other requests."""


class Tuner:
    """The search: random candidates by successive halving, then single weights of the best one."""

    def __init__(self, task: Task, evaluate: Evaluate) -> None:
        self._task = task
        self._evaluate = evaluate
        self._known: dict[tuple[Weights, float], list[float]] = {}
        self.trials: list[Trial] = []

    def leading(self) -> Weights:
        """The best so far, of those that were tried on most of the training part."""
        return max(self.trials, key=lambda one: (one.share, one.score)).weights if self.trials else PLAIN

    def best(self) -> Weights:
        """The best candidate on the training part; the default is one of them."""
        candidates = self._drawn()
        for number in range(ROUNDS):
            share = 1.0 / 2 ** (ROUNDS - 1 - number)
            scores = self._scores(candidates, share)
            order = sorted(range(len(candidates)), key=lambda i: (-scores[i], i))
            if number < ROUNDS - 1:
                candidates = [candidates[i] for i in order[: max(2, math.ceil(len(candidates) / KEPT))]]
                if PLAIN not in candidates:
                    candidates.append(PLAIN)
            else:
                best, score = candidates[order[0]], scores[order[0]]
        return self._polished(best, score)

    def _polished(self, best: Weights, score: float) -> Weights:
        """Each weight changed by itself, then all changes that were better together; finer when none is."""
        steps = iter(STEPS)
        step = next(steps)
        for _ in range(POLISHED):
            near = _neighbours(best, step)
            ranked = sorted(zip(self._scores(near, 1.0), near, strict=True), key=lambda one: -one[0])
            gains = [weights for found, weights in ranked if found > score]
            if len(gains) > 1:
                (found,) = self._scores([together := _together(best, gains)], 1.0)
                ranked = sorted([(found, together), *ranked], key=lambda one: -one[0])
            if gains:
                score, best = ranked[0]
            elif (step := next(steps, 0.0)) == 0.0:
                break
        return best

    def _drawn(self) -> list[Weights]:
        """The default, then as many at random as asked for."""
        rng = np.random.default_rng([self._task.scenario.seed, 7])
        found = [PLAIN]
        for _ in range(self._task.trials - 1):
            factors = map(math.exp, rng.uniform(-math.log(SPAN), math.log(SPAN), len(DEFAULT)).tolist())
            pairs = zip(DEFAULT.items(), factors, strict=True)
            found.append(Weights(**{name: _short(weight * factor) for (name, weight), factor in pairs}))
        return found

    def _scores(self, candidates: Sequence[Weights], share: float) -> list[float]:
        """Each candidate's score on that share of the training part; what was tried before is not tried again."""
        new = list(dict.fromkeys(w for w in (PLAIN, *candidates) if (w, share) not in self._known))
        cases = [self._cases(weights, share) for weights in new]
        answers = iter(self._evaluate([case for one in cases for case in one]))
        for weights, asked in zip(new, cases, strict=True):
            self._known[weights, share] = [_measured(next(answers), self._task.objective) for _ in asked]
        scores = [self._score(weights, share) for weights in candidates]
        self.trials += [
            Trial(weights, share, score) for weights, score in zip(candidates, scores, strict=True) if weights in new
        ]
        return scores

    def _score(self, weights: Weights, share: float) -> float:
        own, plain = self._known[weights, share], self._known[PLAIN, share]
        gains = [math.log(max(a, LEAST) / max(b, LEAST)) for a, b in zip(own, plain, strict=True)]
        return better(self._task.objective) * math.fsum(gains) / len(gains)

    def _cases(self, weights: Weights, share: float) -> list[Case]:
        task = self._task
        part = (0.0, task.train * share)
        return [case for level in task.levels for case in _cases(task, weights, level, part, task.seeds)]


def judge(task: Task, found: Weights, evaluate: Evaluate) -> tuple[str, float | None, list[Held]]:
    """Default and `found` side by side on the part held out: the verdict over all loads, the change, and each load."""
    asked = [(level, [_held_cases(task, weights, level) for weights in (PLAIN, found)]) for level in task.levels]
    answers = iter(evaluate([case for _, pair in asked for cases in pair for case in cases]))
    held, plain, tuned = [], [], []
    for level, pair in asked:
        default_runs, tuned_runs = ([next(answers) for _ in cases] for cases in pair)
        held.append(Held(level.name, cell("default", default_runs, None), cell("tuned", tuned_runs, default_runs)))
        plain.append([value(run, task.objective) for run in default_runs])
        tuned.append([value(run, task.objective) for run in tuned_runs])
    against = difference(task.objective, _over_levels(tuned), _over_levels(plain))
    if against is None:
        return "not shown", None, held
    return against.verdict, against.relative, held


def judged_on(task: Task) -> str:
    """What the judgement rests on, in words."""
    last = f"the last {1 - task.train:.0%}"
    if task.random:
        return f"{last}, with {max(len(task.seeds), JUDGED)} other seeds"
    return f"{last}, in {JUDGED} pieces"


def _held_cases(task: Task, weights: Weights, level: Level) -> list[Case]:
    """The rest of the workload with seeds of its own or, where seeds change nothing, in pieces: several runs are needed
    to tell a difference from chance."""
    if task.random:
        first = task.seeds[-1] + 1
        seeds = [first + i for i in range(max(len(task.seeds), JUDGED))]
        return _cases(task, weights, level, (task.train, 1.0), seeds)
    edges = [task.train + (1.0 - task.train) * i / JUDGED for i in range(JUDGED + 1)]
    return [case for part in itertools.pairwise(edges) for case in _cases(task, weights, level, part, task.seeds[:1])]


def _over_levels(levels: Sequence[Sequence[float]]) -> list[float]:
    """Mean over the loads, seed by seed."""
    return [math.fsum(of_seed) / len(of_seed) for of_seed in zip(*levels, strict=True)]


def _cases(task: Task, weights: Weights, level: Level, part: tuple[float, float], seeds: Sequence[int]) -> list[Case]:
    source = msgspec.structs.replace(level.of(task.source), part=part)
    scenario = msgspec.structs.replace(task.scenario, policy=weights.policy())
    return seeded(_label(weights, level, part), source, scenario, seeds, task.slo)


def _label(weights: Weights, level: Level, part: tuple[float, float]) -> str:
    numbers = ", ".join(f"{name}={weight:g}" for name, weight in msgspec.structs.asdict(weights).items())
    return f"{numbers} at {level.name}, {part[0]:.1%} to {part[1]:.1%}"


def held_label(task: Task, weights: Weights, level: Level) -> str:
    """The label of the first run that judges these weights at that load."""
    return _held_cases(task, weights, level)[0].label


def _neighbours(weights: Weights, step: float) -> list[Weights]:
    """One weight changed, up and down."""
    return [
        msgspec.structs.replace(weights, **{name: _short(weight * factor)})
        for name, weight in msgspec.structs.asdict(weights).items()
        for factor in (step, 1.0 / step)
    ]


def _together(best: Weights, gains: Sequence[Weights]) -> Weights:
    """All changes at once; of two to one weight the first, which is the better."""
    plain = msgspec.structs.asdict(best)
    changed: dict[str, float] = {}
    for weights in gains:
        for name, weight in msgspec.structs.asdict(weights).items():
            if weight != plain[name]:
                changed.setdefault(name, weight)
    return msgspec.structs.replace(best, **changed)


def _measured(summary: Summary, objective: str) -> float:
    """The objective of one run; where nothing was answered, as bad as can be."""
    found = value(summary, objective)
    if math.isnan(found):
        return LEAST if better(objective) > 0 else 1.0 / LEAST
    return found


def _short(weight: float) -> float:
    """Three significant digits: a file that people read."""
    return float(f"{weight:.3g}")
