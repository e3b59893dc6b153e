"""What a page is told of a run: its numbers, and as much of its detail as plots can show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from kvroute.simulator.reports.columns import Columns
from kvroute.simulator.reports.distribution import Quantiles
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.runs.outcome import Outcome, Sample
from kvroute.simulator.runs.scenario import Scenario

CURVE_POINTS = 451
"""Of a distribution's body; the tail has 49 more."""
MOST_CELLS = 60_000
"""Replicas x moments of one run over time: its three heat maps stay well below a megabyte."""
MOST_MOMENTS = 400


class Detail(msgspec.Struct, frozen=True):
    """What remains of an outcome, small enough to be sent to another process: a few hundred kilobytes at most."""

    ttft: list[tuple[float, float]]
    """(seconds, share of requests that do not exceed it)."""
    tpot: list[tuple[float, float]]
    e2e: list[tuple[float, float]]
    names: list[str]
    samples: list[Sample]
    """Thinned out to what a plot can show."""
    last_arrival: float
    """When the last request was sent [s]."""

    @classmethod
    def of(cls, outcome: Outcome, scenario: Scenario) -> Detail:
        """Reduce an outcome."""
        columns = Columns(outcome, scenario)
        ttft, tpot, e2e = (
            Quantiles(column[columns.done]).curve(CURVE_POINTS) for column in (columns.ttft, columns.tpot, columns.e2e)
        )
        moments = max(40, min(MOST_MOMENTS, MOST_CELLS // max(len(outcome.names), 1)))
        last = float(columns.at[-1]) if len(columns) else 0.0
        return cls(ttft, tpot, e2e, list(outcome.names), thinned(outcome.samples, moments), last)


class Run(msgspec.Struct, frozen=True):
    """One run on a page."""

    label: str
    """What sets it apart from the others: a policy, a fleet, a load."""
    scenario: Scenario
    summary: Summary
    detail: Detail | None = None
    """None: only its numbers are known; nothing is shown over time."""

    @classmethod
    def of(cls, label: str, scenario: Scenario, summary: Summary, outcome: Outcome) -> Run:
        """With all that the outcome tells."""
        return cls(label, scenario, summary, Detail.of(outcome, scenario))


def thinned(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many: neighbours become one, with the most that waited and was used in it, so no peak is lost."""
    if len(samples) <= most:
        return list(samples)
    size = math.ceil(len(samples) / most)
    return [_merged(samples[start : start + size]) for start in range(0, len(samples), size)]


def _merged(samples: Sequence[Sample]) -> Sample:
    return Sample(
        samples[-1].time,
        [max(each) for each in zip(*(one.running for one in samples), strict=True)],
        [max(each) for each in zip(*(one.waiting for one in samples), strict=True)],
        [max(each) for each in zip(*(one.kv_usage for one in samples), strict=True)],
    )
