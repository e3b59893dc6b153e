"""Plots of the capacity curve: latencies and goodput over load or fleet size, the SLO, the knee."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kvroute.simulator.reports.html.curve import RATE, REPLICAS, Curve, CurvePoint
from kvroute.simulator.reports.html.figure import (
    LOG_FROM,
    Entries,
    Figure,
    Layout,
    Section,
    Trace,
    seconds_axis,
    threshold,
)
from kvroute.simulator.reports.html.latencies import said
from kvroute.simulator.reports.measures import TIMES

NAMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "Inter-token time", "e2e": "End to end", "queue": "Queueing"}
SYMBOLS = {"below": "circle", "at": "diamond", "beyond": "x"}
TEXT = (
    "● below the knee, ◆ at it, ✕ saturated: there, work comes in faster than it is done, and the figures depend on how"
    " long the run was."
)
WHISKERS = " Whiskers are 95 % confidence over the seeds."


def section(curve: Curve, entries: Entries) -> Section:
    """Where latencies take off."""
    figures = [_latency(name, curve, entries) for name in _times(curve)]
    for rate in ("goodput", "throughput_requests"):
        if any(rate in point.figures for one in curve.series for point in one.points):
            figures.append(_rate(rate, curve, entries))
            break
    sure = any(f.half_width is not None for one in curve.series for point in one.points for f in point.figures.values())
    text = TEXT + (WHISKERS if sure and not entries.crowded else "")
    return Section("capacity", "Capacity", text, figures)


def _times(curve: Curve) -> list[str]:
    """The measures that the SLO is about, else the usual ones, as far as they are known."""
    known = {name for one in curve.series for point in one.points for name in point.figures}
    asked = [f"{term.metric}_{term.statistic}" for term in curve.slo.terms] if curve.slo else []
    wanted = dict.fromkeys([*asked, *([] if len(asked) > 1 else ["ttft_p90", "tpot_p90"])])
    return [name for name in wanted if name in known]


def _latency(measure: str, curve: Curve, entries: Entries) -> Figure:
    metric, _, statistic = measure.rpartition("_")
    values = [point.figures[measure].mean for one in curve.series for point in one.points if measure in point.figures]
    title = f"{NAMES[metric]} {statistic}"
    asked = curve.slo.terms if curve.slo else ()
    terms = [term for term in asked if (term.metric, term.statistic) == (metric, statistic)]
    axis = seconds_axis("", values, [term.limit for term in terms])
    lines = [threshold(axis, "y", term.limit, said(term)) for term in terms]
    layout = _layout(curve, axis, lines)
    return Figure(
        f"curve-{measure}", title, _traces(measure, curve, entries), layout, 340, told=_told(title, measure, curve)
    )


def _rate(measure: str, curve: Curve, entries: Entries) -> Figure:
    title = "Goodput" if measure == "goodput" else "Completed requests"
    axis = {"title": {"text": f"{title} [requests/s]"}, "rangemode": "tozero"}
    data = _traces(measure, curve, entries)
    if curve.axis == RATE:
        ends = [min(_xs(curve)), max(_xs(curve))]
        data.append(
            {
                "type": "scatter", "mode": "lines", "x": ends, "y": ends, "name": "as offered", "hoverinfo": "skip",
                "line": {"color": "@soft", "dash": "dot", "width": 1.5}, "showlegend": True,
            }
        )  # fmt: skip
    layout = {**_layout(curve, axis, []), "showlegend": curve.axis == RATE}
    return Figure(f"curve-{measure}", title, data, layout, 340, told=_told(title, measure, curve))


def _traces(measure: str, curve: Curve, entries: Entries) -> list[Trace]:
    return [_trace(measure, one.label, one.points, entries) for one in curve.series]


def _trace(measure: str, label: str, points: Sequence[CurvePoint], entries: Entries) -> Trace:
    known = [point for point in points if measure in point.figures]
    halves = [point.figures[measure].half_width for point in known]
    unit = "%{y:.3s}s" if measure.rpartition("_")[0] in TIMES else "%{y:.3~g} requests/s"
    trace: Trace = {
        **entries.of(label), "type": "scatter", "mode": "lines+markers", "x": [point.x for point in known],
        "y": [point.figures[measure].mean for point in known], "line": entries.line(label),
        "marker": {"symbol": [SYMBOLS[point.regime] for point in known], "size": 9, "color": entries.colour(label)},
        "text": [_standing(point) for point in known],
        "hovertemplate": f"{unit} at %{{x:.4~g}}, %{{text}}<extra>{label}</extra>",
    }  # fmt: skip
    if any(half is not None for half in halves) and not entries.crowded:
        trace["error_y"] = {
            "type": "data", "array": [half or 0.0 for half in halves], "thickness": 1.2, "width": 3,
            "color": entries.colour(label),
        }  # fmt: skip
    return trace


def _standing(point: CurvePoint) -> str:
    where = {"below": "below the knee", "at": "at the knee", "beyond": "saturated"}[point.regime]
    return where if point.met is None else f"{where}, SLO {'met' if point.met else 'missed'}"


def _layout(curve: Curve, axis: dict[str, Any], lines: Sequence[tuple[Layout, Layout]]) -> Layout:
    xaxis: dict[str, Any] = {"title": {"text": curve.axis}}
    xs = _xs(curve)
    if curve.axis == REPLICAS:
        xaxis |= _counted(sorted(set(xs)))
    shapes, annotations = [shape for shape, _ in lines], [label for _, label in lines]
    for place, text in curve.marks:
        shape, label = threshold(xaxis, "x", place, text)
        shape["line"] |= {"color": "@soft", "dash": "dot"}
        label |= {"font": {"color": "@soft", "size": 11}, "y": 1.0}
        shapes.append(shape)
        annotations.append(label)
    return {"xaxis": xaxis, "yaxis": axis, "shapes": shapes, "annotations": annotations}


def _counted(counts: Sequence[float]) -> dict[str, Any]:
    """An axis of whole numbers, logarithmic where they span much."""
    low, high = counts[0], counts[-1]
    if high <= LOG_FROM * low:
        return {"tickvals": counts} if len(counts) <= 12 else {"dtick": max(1, round(high / 10))}
    room = 0.05 * math.log10(high / low)
    ticks = [2**power for power in range(12) if low <= 2**power <= high]
    return {
        "type": "log", "tickvals": ticks, "ticktext": [str(tick) for tick in ticks],
        "range": [math.log10(low) - room, math.log10(high) + room],
    }  # fmt: skip


def _xs(curve: Curve) -> list[float]:
    return [point.x for one in curve.series for point in one.points]


def _told(title: str, measure: str, curve: Curve) -> str:
    parts = []
    for one in curve.series:
        known = [(point.x, point.figures[measure].mean) for point in one.points if measure in point.figures]
        if known:
            (first, low), (last, high) = known[0], known[-1]
            parts.append(f"{one.label}: {low:.3g} at {first:g}, {high:.3g} at {last:g}")
    return f"{title} over {curve.axis}. " + "; ".join(parts)
