"""Plots of latencies: distributions where they are known, else what each run's percentiles were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kvroute.simulator.reports.html.figure import (
    Entries,
    Figure,
    Layout,
    Section,
    Trace,
    seconds_axis,
    short_time,
    threshold,
)
from kvroute.simulator.reports.html.run import Run
from kvroute.simulator.reports.units import time
from kvroute.simulator.slo import Slo, Term

METRICS = (
    ("ttft", "TTFT", "time to first token"),
    ("tpot", "TPOT", "time per output token after the first"),
    ("e2e", "End to end", "from sending to the last token"),
)
STATISTICS = (("p50", "circle-open"), ("p90", "circle"), ("p99", "line-ns"))


def section(runs: Sequence[Run], entries: Entries) -> Section:
    """How long requests took."""
    slo = next((Slo.parse(run.summary.slo) for run in runs if run.summary.slo), None)
    if all(run.detail is not None for run in runs):
        text = (
            "Share of requests that took at most so long: a curve further left is faster, and its upper end is the"
            " slowest one in a hundred."
        )
        return Section("latency", "Latency", text, _known(_distribution(*one, runs, entries, slo) for one in METRICS))
    text = "Half of the requests (ring), nine of ten (dot) and 99 of 100 (bar) took at most so long."
    return Section("latency", "Latency", text, _known(_percentiles(*one, runs, entries, slo) for one in METRICS))


def _known(figures: Iterable[Figure]) -> list[Figure]:
    """Those that there is something to show in: answers of one token have no TPOT."""
    return [figure for figure in figures if figure.data]


def _distribution(metric: str, name: str, about: str, runs: Sequence[Run], entries: Entries, slo: Slo | None) -> Figure:
    traces: list[Trace] = []
    values: list[float] = []
    for run in runs:
        curve: list[tuple[float, float]] = getattr(run.detail, metric)
        if not curve:
            continue
        seconds = [value for value, _ in curve]
        values += seconds
        shares = [share for _, share in curve]
        traces.append(
            {
                **entries.of(run.label), "type": "scatter", "mode": "lines", "x": seconds, "y": shares,
                "line": entries.line(run.label),
                "hovertemplate": f"%{{y:.1%}} within %{{x:.3s}}s<extra>{run.label}</extra>",
            }
        )  # fmt: skip
    axis = seconds_axis(about, values, [term.limit for term in _terms(metric, slo)])
    layout: Layout = {
        "xaxis": axis, "yaxis": {"title": {"text": "share of requests"}, "tickformat": ".0%", "range": [0, 1.02]},
        **_limits(axis, "x", metric, slo),
    }  # fmt: skip
    return Figure(f"cdf-{metric}", name, traces, layout, told=_told(name, metric, runs))


def _percentiles(metric: str, name: str, about: str, runs: Sequence[Run], entries: Entries, slo: Slo | None) -> Figure:
    traces: list[Trace] = []
    values: list[float] = []
    for run in runs:
        found = getattr(run.summary, metric)
        if found is None:
            continue
        seconds = [getattr(found, statistic) for statistic, _ in STATISTICS]
        values += seconds
        traces.append(
            {
                **entries.of(run.label), "type": "scatter", "mode": "lines+markers", "x": seconds,
                "y": [run.label] * 3, "line": {"color": entries.colour(run.label), "width": 1.5},
                "marker": {"symbol": [symbol for _, symbol in STATISTICS], "size": 11,
                           "color": entries.colour(run.label),
                           "line": {"width": 2, "color": entries.colour(run.label)}},
                "text": [statistic for statistic, _ in STATISTICS],
                "hovertemplate": f"%{{text}} %{{x:.3s}}s<extra>{run.label}</extra>",
            }
        )  # fmt: skip
    axis = seconds_axis(about, values, [term.limit for term in _terms(metric, slo)])
    layout: Layout = {"xaxis": axis, "yaxis": category_axis(runs), **_limits(axis, "x", metric, slo)}
    return Figure(f"percentiles-{metric}", name, traces, layout, rows_height(len(runs)), told=_told(name, metric, runs))


def category_axis(runs: Sequence[Run]) -> dict[str, Any]:
    """Runs from top to bottom."""
    labels = [run.label for run in runs]
    return {"type": "category", "categoryarray": labels, "autorange": "reversed", "automargin": True}


def rows_height(count: int) -> int:
    """Of a plot with so many rows [pixels]."""
    return 110 + 30 * max(count, 2)


def _limits(axis: dict[str, Any], where: str, metric: str, slo: Slo | None) -> Layout:
    """Lines at what the SLO allows."""
    lines = [threshold(axis, where, term.limit, said(term)) for term in _terms(metric, slo)]
    return {"shapes": [shape for shape, _ in lines], "annotations": [label for _, label in lines]}


def _terms(metric: str, slo: Slo | None) -> list[Term]:
    return [term for term in slo.terms if term.metric == metric] if slo else []


def said(term: Term) -> str:
    """As it stands beside its line."""
    return f"SLO {term.statistic} < {short_time(term.limit)}"


def _told(name: str, metric: str, runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        found = getattr(run.summary, metric)
        if found is not None:
            parts.append(f"{run.label}: p50 {time(found.p50)}, p90 {time(found.p90)}, p99 {time(found.p99)}")
    return f"{name}. " + "; ".join(parts)
