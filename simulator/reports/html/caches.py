"""Plots of what the caches were worth: found by the engines, believed by the router, possible at best."""

from __future__ import annotations

from collections.abc import Sequence

from kvroute.simulator.reports.html.figure import Entries, Figure, Section, Trace
from kvroute.simulator.reports.html.latencies import category_axis
from kvroute.simulator.reports.html.run import Run
from kvroute.simulator.reports.units import percent

TEXT = (
    "Share of all prompt tokens that need not be computed. The bound is what one endless cache would have held: no"
    " routing can do better. What the router believed and what the engines found should agree."
)


def section(runs: Sequence[Run], entries: Entries) -> Section:
    """How much of the prompts came from caches."""
    labels = [run.label for run in runs]
    found = [run.summary.cached_token_rate for run in runs]
    believed = [run.summary.believed_token_rate for run in runs]
    bound = [run.summary.reusable_token_rate for run in runs]
    hover = "%{x:.1%}<extra>%{y}: "
    data: list[Trace] = [
        {
            "type": "bar", "orientation": "h", "x": found, "y": labels, "name": "found by the engines", "width": 0.55,
            "marker": {"color": [entries.colour(label) for label in labels]} if len(runs) > 1 else {"color": "@c0"},
            "hovertemplate": hover + "found</extra>", "legendgroup": "found",
        },
        {
            "type": "scatter", "mode": "markers", "x": believed, "y": labels, "name": "believed by the router",
            "marker": {"symbol": "diamond-open", "size": 11, "color": "@ink", "line": {"width": 2}},
            "hovertemplate": hover + "believed</extra>",
        },
        {
            "type": "scatter", "mode": "markers", "x": bound, "y": labels, "name": "upper bound",
            "marker": {"symbol": "line-ns", "size": 26, "color": "@bad", "line": {"width": 3, "color": "@bad"}},
            "hovertemplate": hover + "bound</extra>",
        },
    ]  # fmt: skip
    layout = {
        "xaxis": {
            "title": {"text": "share of prompt tokens"},
            "tickformat": ".0%",
            "range": [0, _upper(bound, believed)],
        },
        "yaxis": category_axis(runs),
        "showlegend": True,
    }
    said = "; ".join(
        f"{run.label}: {percent(run.summary.cached_token_rate)} of at most {percent(run.summary.reusable_token_rate)}"
        for run in runs
    )
    figure = Figure("hits", "Cached prompt tokens", data, layout, 150 + 30 * max(len(runs), 2), True, f"Cached: {said}")
    return Section("cache", "Cache hits against the bound", TEXT, [figure])


def _upper(bound: Sequence[float], believed: Sequence[float]) -> float:
    return min(1.02, max(0.05, 1.12 * max([*bound, *believed])))
