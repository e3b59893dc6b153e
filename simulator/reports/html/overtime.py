"""Plots of the fleet over time: requests running and waiting, and the room that they took, replica by replica."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kvroute.simulator.reports.html.figure import Figure, Section, Trace
from kvroute.simulator.reports.html.run import Detail, Run
from kvroute.simulator.reports.units import percent
from kvroute.simulator.runs.outcome import Sample

TEXT = (
    "Above the fleet as a whole, below one row a replica. Requests that wait while other replicas are idle show as"
    " single bright rows; a fleet that cannot keep up gets brighter until the last request was sent (dotted line)."
)
TIME = {"title": {"text": "time [s]"}, "ticksuffix": ""}


def section(runs: Sequence[Run]) -> Section | None:
    """The fleet over time, of each run that has samples; None where none has."""
    shown = [(number, run.label, _figures(number, run.detail)) for number, run in enumerate(runs) if _has(run)]
    return Section("over-time", "Over time", TEXT, [], shown) if shown else None


def _has(run: Run) -> bool:
    return run.detail is not None and len(run.detail.samples) > 1


def _figures(number: int, detail: Detail | None) -> list[Figure]:
    assert detail is not None
    figures = [_requests(number, detail), _kv(number, detail)]
    if len(detail.names) > 1:
        figures += [
            _heat(number, detail, "running", "Running requests per replica", "running"),
            _heat(number, detail, "waiting", "Waiting requests per replica", "waiting"),
            _heat(number, detail, "kv_usage", "KV cache in use per replica", "in use"),
        ]
    return figures


def _line(name: str, colour: str, x: list[float], y: Sequence[float], unit: str, **more: Any) -> Trace:
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": list(y), "name": name,
        "line": {"color": colour, "width": 2, **more}, "hovertemplate": f"%{{y:{unit}}}<extra>{name}</extra>",
    }  # fmt: skip


def _requests(number: int, detail: Detail) -> Figure:
    samples = detail.samples
    running, waiting = [sum(one.running) for one in samples], [sum(one.waiting) for one in samples]
    data = [
        _line("running", "@c0", _times(samples), running, ",.0f"),
        _line("waiting", "@c1", _times(samples), waiting, ",.0f"),
    ]
    told = f"At most {max(running)} running and {max(waiting)} waiting"
    return Figure(f"fleet-{number}", "Requests in the fleet", data, _layout(detail, "requests"), told=told)


def _kv(number: int, detail: Detail) -> Figure:
    samples = detail.samples
    mean = [math.fsum(one.kv_usage) / len(one.kv_usage) for one in samples]
    most = [max(one.kv_usage) for one in samples]
    data = [_line("mean of all replicas", "@c2", _times(samples), mean, ".1%")]
    if len(detail.names) > 1:
        data.insert(0, _line("fullest replica", "@c3", _times(samples), most, ".1%", width=1))
    layout = _layout(detail, "share of KV blocks")
    layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.02] if max(most) > 0.4 else [0, 1.15 * max(most) or 0.1]}
    return Figure(f"kv-{number}", "KV cache in use", data, layout, told=f"At most {percent(max(most))} of one replica")


def _heat(number: int, detail: Detail, field: str, title: str, said: str) -> Figure:
    samples = detail.samples
    share = field == "kv_usage"
    rows = [list(row) for row in zip(*(getattr(one, field) for one in samples), strict=True)]
    most = max(max(row) for row in rows)
    cells: Any = [[round(value, 3) for value in row] for row in rows] if share else rows
    form = "%{z:.1%}" if share else "%{z:,}"
    whole = {"dtick": 1} if most <= 5 else {"tickformat": "~s"}
    trace: Trace = {
        "type": "heatmap", "x": _times(samples), "y": detail.names, "z": cells, "colorscale": "@sequence", "zmin": 0,
        "zmax": 1 if share and most > 0.4 else most or 1,
        "hovertemplate": f"{form} {said} at %{{x:.4~g}} s<extra>%{{y}}</extra>",
        "colorbar": {"thickness": 12, "outlinewidth": 0, **({"tickformat": ".0%"} if share else whole)},
    }  # fmt: skip
    layout = _layout(detail, "")
    layout["yaxis"] = {"type": "category", "autorange": "reversed", "automargin": True, "showgrid": False}
    layout |= {"showlegend": False, "annotations": [], "hovermode": "closest"}
    height = min(560, max(190, 90 + 16 * len(detail.names)))
    return Figure(f"heat-{field}-{number}", title, [trace], layout, height, True, told=f"{title}, at most {most:.3g}")


def _layout(detail: Detail, title: str) -> dict[str, Any]:
    """Time to the right; where the last request was sent is marked, if the run went on for long after it."""
    last, end = detail.last_arrival, detail.samples[-1].time
    layout: dict[str, Any] = {
        "xaxis": dict(TIME), "yaxis": {"title": {"text": title}, "rangemode": "tozero"}, "showlegend": True,
        "hovermode": "x unified",
    }  # fmt: skip
    if last < 0.97 * end:
        layout["shapes"] = [
            {"type": "line", "x0": last, "x1": last, "y0": 0, "y1": 1, "yref": "paper",
             "line": {"color": "@soft", "dash": "dot", "width": 1.5}}
        ]  # fmt: skip
        layout["annotations"] = [
            {"x": last, "y": 1, "yref": "paper", "text": "last request sent", "showarrow": False, "yanchor": "top",
             "xanchor": "right", "font": {"color": "@soft", "size": 11}}
        ]  # fmt: skip
    return layout


def _times(samples: Sequence[Sample]) -> list[float]:
    return [round(one.time, 3) for one in samples]
