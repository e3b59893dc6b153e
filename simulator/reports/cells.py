"""The same run over several seeds, as one cell of a table: means, how sure they are, and what differs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kvroute.simulator.reports.confidence import Estimate, estimate, paired, shown
from kvroute.simulator.reports.measures import COMPARED, JUDGED, better, value
from kvroute.simulator.reports.summary import Summary

REGIMES = ("below", "at", "beyond")


class Difference(msgspec.Struct, frozen=True):
    """A policy less the reference, seed by seed on the same requests."""

    mean: float
    half_width: float | None
    """95 %; None: one seed says nothing of the spread."""
    relative: float | None
    """The mean of it over the mean of the reference."""
    verdict: str
    """better, worse, or "not shown": zero lies within the interval, or there was one seed."""


class Figure(msgspec.Struct, frozen=True):
    """One measure of a cell."""

    mean: float
    half_width: float | None
    difference: Difference | None = None
    """None for the reference itself."""


class Cell(msgspec.Struct, frozen=True):
    """One policy at one load, over all seeds."""

    policy: str
    regime: str
    """The worst of its runs: below, at, or beyond the knee."""
    regime_reason: str
    saturated_runs: int
    runs: int
    refused: int
    unfinished: int
    slo_met_runs: int | None
    figures: dict[str, Figure]


def cell(policy: str, runs: Sequence[Summary], reference: Sequence[Summary] | None) -> Cell:
    """Sum the runs of one policy up, against those of the reference on the same seeds."""
    worst = max(runs, key=lambda run: REGIMES.index(run.regime))
    judged = [run.slo_met for run in runs if run.slo_met is not None]
    figures = {}
    for name in (*COMPARED, *(JUDGED if judged else ())):
        figure = _figure(name, runs, reference)
        if figure is not None:
            figures[name] = figure
    return Cell(
        policy=policy,
        regime=worst.regime,
        regime_reason=worst.regime_reason,
        saturated_runs=sum(run.saturated for run in runs),
        runs=len(runs),
        refused=sum(run.refused for run in runs),
        unfinished=sum(run.unfinished for run in runs),
        slo_met_runs=sum(judged) if judged else None,
        figures=figures,
    )


def _figure(name: str, runs: Sequence[Summary], reference: Sequence[Summary] | None) -> Figure | None:
    own = [value(run, name) for run in runs]
    mean = estimate(own)
    if mean is None:
        return None
    against = None if reference is None else difference(name, own, [value(run, name) for run in reference])
    return Figure(mean.mean, mean.half_width, against)


def difference(name: str, own: Sequence[float], reference: Sequence[float]) -> Difference | None:
    """How one differs from the other, pair by pair; None where no pair is known."""
    found: Estimate | None = paired(own, reference)
    base = estimate(reference)
    if found is None or base is None:
        return None
    direction = shown(found) * better(name)
    return Difference(
        found.mean,
        found.half_width,
        found.mean / base.mean if base.mean else None,
        {1: "better", -1: "worse", 0: "not shown"}[direction],
    )
