"""Plots of how evenly the work was spread."""

from __future__ import annotations

from collections.abc import Sequence

from kvroute.simulator.reports.html.figure import Entries, Figure, Section, Trace
from kvroute.simulator.reports.html.latencies import category_axis, rows_height
from kvroute.simulator.reports.html.run import Run
from kvroute.simulator.reports.summary import PerReplica
from kvroute.simulator.reports.units import digits

ONE = "What each replica was given: prompt tokens that it had to compute, and those that it found in its cache."
MANY = (
    "Each dot is a replica: its load next to the mean of all replicas in that run. 1 is even; a dot at 2 did twice the"
    " mean. An uneven spread is no fault where caches are worth more than balance."
)


def section(runs: Sequence[Run], entries: Entries) -> Section:
    """Who did the work."""
    if len(runs) == 1:
        return Section("balance", "Balance", ONE, [_replicas(runs[0])])
    figures = [
        _spread("requests", "Requests per replica", runs, entries),
        _spread("computed", "Computed prompt tokens per replica", runs, entries),
    ]
    return Section("balance", "Balance", MANY, figures)


def _replicas(run: Run) -> Figure:
    shares = run.summary.per_replica
    names = [one.name for one in shares]
    data: list[Trace] = [
        {
            "type": "bar", "x": names, "y": [one.prompt_tokens - one.cached_tokens for one in shares],
            "name": "computed", "marker": {"color": "@c0"},
            "customdata": [one.requests for one in shares],
            "hovertemplate": "%{y:.3s} tokens computed, %{customdata:,} requests<extra>%{x}</extra>",
        },
        {
            "type": "bar", "x": names, "y": [one.cached_tokens for one in shares], "name": "cached",
            "marker": {"color": "@c4"}, "hovertemplate": "%{y:.3s} tokens cached<extra>%{x}</extra>",
        },
    ]  # fmt: skip
    layout = {
        "barmode": "stack", "showlegend": True,
        "xaxis": {"type": "category", "automargin": True},
        "yaxis": {"title": {"text": "prompt tokens"}, "tickformat": "~s"},
    }  # fmt: skip
    told = f"Most requests at one replica over the mean: {digits(run.summary.balance_requests)}"
    return Figure("replicas", "Prompt tokens per replica", data, layout, 320, True, told)


def _spread(measure: str, title: str, runs: Sequence[Run], entries: Entries) -> Figure:
    data: list[Trace] = []
    said = []
    for run in runs:
        loads = [_load(measure, one) for one in run.summary.per_replica]
        mean = sum(loads) / len(loads)
        shares = [load / mean for load in loads] if mean else []
        data.append(
            {
                **entries.of(run.label), "type": "scatter", "mode": "markers", "x": shares,
                "y": [run.label] * len(shares),
                "marker": {"color": entries.colour(run.label), "size": 11, "opacity": 0.55,
                           "line": {"width": 1, "color": entries.colour(run.label)}},
                "text": [one.name for one in run.summary.per_replica],
                "hovertemplate": f"%{{text}}: %{{x:.2f}} of the mean<extra>{run.label}</extra>",
            }
        )  # fmt: skip
        said.append(f"{run.label} at most {digits(max(shares, default=1.0))} times the mean")
    even = {
        "type": "line",
        "x0": 1,
        "x1": 1,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "@soft", "dash": "dot", "width": 1.5},
    }
    layout = {
        "xaxis": {"title": {"text": "times the mean of all replicas"}, "range": _around_one(data)},
        "yaxis": category_axis(runs), "shapes": [even],
    }  # fmt: skip
    return Figure(f"spread-{measure}", title, data, layout, rows_height(len(runs)), told=f"{title}: " + "; ".join(said))


def _around_one(data: Sequence[Trace]) -> list[float]:
    """Half to one and a half, or what there is."""
    loads = [share for trace in data for share in trace["x"]]
    return [min([0.5, *loads]) - 0.05, max([1.5, *loads]) + 0.05]


def _load(measure: str, one: PerReplica) -> float:
    return float(one.requests if measure == "requests" else one.prompt_tokens - one.cached_tokens)
