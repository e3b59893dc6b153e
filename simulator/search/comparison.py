"""Policies side by side: the same requests for all, at every load, over several seeds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kvroute.scorers.plugins import PolicySpec
from kvroute.simulator.reports.cells import REGIMES, Cell, cell
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.case import Case, Evaluate, Source
from kvroute.simulator.search.load import Knee, Level
from kvroute.simulator.search.seeds import seed_changes, seeded


class Row(msgspec.Struct, frozen=True):
    """All policies at one load, in the order asked."""

    level: Level
    regime: str
    """Of the reference there."""
    cells: list[Cell]


class Comparison(msgspec.Struct, frozen=True):
    """What is told of a comparison."""

    workload: str
    replicas: int
    reference: str
    """The policy that differences are to."""
    seeds: list[int]
    seeds_change: str
    """`requests`: each seed makes other requests; `dice`: the trace is the same for all, only ties and random choices
    of the router differ, so intervals say nothing of other days' traffic."""
    slo: str | None
    knee: Knee | None
    rows: list[Row]
    """By ascending load."""
    unfinished: bool = False
    """It was stopped early: cells whose runs were not all made are left out."""


class Run(msgspec.Struct, frozen=True):
    """One run of a comparison, for tables of all of them."""

    level: Level
    policy: str
    summary: Summary


class Question(msgspec.Struct, frozen=True):
    """What is to be compared."""

    source: Source
    scenario: Scenario
    """With the fleet; its policy and seed are replaced."""
    policies: list[tuple[str, PolicySpec]]
    """Name and spec; the first is the reference."""
    levels: list[Level]
    seeds: list[int]
    slo: str | None = None
    knee: Knee | None = None


def cases(question: Question) -> list[tuple[Level, str, list[Case]]]:
    """Every cell with its cases, loads ascending, policies in the order asked."""
    found = []
    for level in question.levels:
        for name, policy in question.policies:
            scenario = msgspec.structs.replace(question.scenario, policy=policy)
            label = f"{name} at {level.name}"
            found.append(
                (level, name, seeded(label, level.of(question.source), scenario, question.seeds, question.slo))
            )
    return found


def compare(question: Question, evaluate: Evaluate) -> tuple[Comparison, list[Run]]:
    """Make all runs at once and sum them up."""
    cells = cases(question)
    answers = iter(evaluate([case for _, _, cases in cells for case in cases]))
    made = {case.label: next(answers) for _, _, cases in cells for case in cases}
    return gathered(question, made)


def gathered(question: Question, made: dict[str, Summary]) -> tuple[Comparison, list[Run]]:
    """Sum up what was made, by the cases' labels; cells that miss a run are left out."""
    by_level: dict[Level, list[tuple[str, list[Summary]]]] = {level: [] for level in question.levels}
    runs: list[Run] = []
    complete = True
    for level, name, cases_of in cases(question):
        summaries = [made[case.label] for case in cases_of if case.label in made]
        runs += [Run(level, name, summary) for summary in summaries]
        if len(summaries) == len(cases_of):
            by_level[level].append((name, summaries))
        else:
            complete = False
    rows = [_row(level, named, question.policies[0][0]) for level, named in by_level.items() if named]
    return (
        Comparison(
            workload=question.source.spec,
            replicas=sum(kind.ranks for kind in question.scenario.replicas),
            reference=question.policies[0][0],
            seeds=list(question.seeds),
            seeds_change="requests" if seed_changes(question.source) else "dice",
            slo=question.slo,
            knee=question.knee,
            rows=rows,
            unfinished=not complete,
        ),
        runs,
    )


def _row(level: Level, named: Sequence[tuple[str, list[Summary]]], reference: str) -> Row:
    base = next((summaries for name, summaries in named if name == reference), None)
    cells = [cell(name, summaries, None if name == reference else base) for name, summaries in named]
    standing = next((one for one in cells if one.policy == reference), None)
    regime = standing.regime if standing is not None else max((one.regime for one in cells), key=REGIMES.index)
    return Row(level, regime, cells)
