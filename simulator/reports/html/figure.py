"""A plot as plotly.js reads it. Strings that begin with @ are colours that the page fills in by theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from kvroute.simulator.reports.units import time_unit

Trace: TypeAlias = dict[str, Any]
Layout: TypeAlias = dict[str, Any]

COLOURS = 8
DASHES = ("solid", "dash", "dot", "dashdot")
LOG_FROM = 8.0
"""An axis is logarithmic where its largest value is so many times its smallest."""


class Figure(msgspec.Struct, frozen=True):
    """One plot."""

    name: str
    """Unique on the page."""
    title: str
    data: list[Trace]
    layout: Layout
    height: int = 320
    """[pixels]"""
    wide: bool = False
    """Takes the whole width of the page."""
    told: str = ""
    """What it shows, for those who cannot see it."""


class Section(msgspec.Struct, frozen=True):
    """Part of a page."""

    name: str
    title: str
    text: str
    """How to read it, in plain words."""
    figures: list[Figure]
    runs: list[tuple[int, str, list[Figure]]] = []
    """(number, label, figures) of each run that has figures of its own, of which one is shown at a time."""


class Entries:
    """What has a colour on the page: labels of runs and lines, in order of their first appearance."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(dict.fromkeys(labels))

    def colour(self, label: str) -> str:
        """As in `@c3`."""
        return f"@c{self.labels.index(label) % COLOURS}"

    def dash(self, label: str) -> str:
        """Tells lines of the same colour apart."""
        return DASHES[self.labels.index(label) // COLOURS % len(DASHES)]

    @property
    def crowded(self) -> bool:
        """More than can be followed at a glance."""
        return len(self.labels) > 6

    def line(self, label: str) -> dict[str, Any]:
        """The line style of a label; among many the first one, to which the others are compared, stands out."""
        first = label == self.labels[0]
        return {"color": self.colour(label), "dash": self.dash(label), "width": 3.0 if first and self.crowded else 1.8}

    def of(self, label: str) -> dict[str, Any]:
        """What lets the legend switch a trace on and off."""
        return {"name": label, "meta": self.labels.index(label), "showlegend": False}


def seconds_axis(title: str, values: Sequence[float], limits: Sequence[float] = ()) -> dict[str, Any]:
    """An axis of times that shows all values and limits, logarithmic where the values span much."""
    positive = [value for value in values if value > 0.0]
    axis: dict[str, Any] = {"title": {"text": title}}
    if not positive:
        return axis
    low, high = min([*positive, *limits]), max([*positive, *limits])
    if max(positive) <= LOG_FROM * min(positive):
        return {**axis, "range": [0.0, 1.08 * high], **_told(_even(high))}
    room = 0.04 * math.log10(high / low)
    return {
        **axis,
        "type": "log",
        "range": [math.log10(low) - room, math.log10(high) + room],
        **_told(_ticks(low, high)),
    }


def _told(ticks: list[float]) -> dict[str, Any]:
    return {"tickvals": ticks, "ticktext": [short_time(tick) for tick in ticks]}


def _even(high: float) -> list[float]:
    """Five to ten round values from 0 on."""
    power = 10.0 ** math.floor(math.log10(high / 5.0))
    step = next(step * power for step in (1.0, 2.0, 5.0, 10.0) if 6.0 * step * power >= high)
    return [float(f"{place * step:.3g}") for place in range(int(1.08 * high / step) + 1)]


def _ticks(low: float, high: float) -> list[float]:
    """Round values on a logarithmic axis, the closer the less it spans."""
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 1.6 else (1.0, 3.0) if decades < 3.2 else (1.0,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    return [float(f"{step * 10.0**power:.3g}") for power in powers for step in steps]


def short_time(seconds: float) -> str:
    """`2 s`, `50 ms`."""
    if seconds == 0.0:
        return "0"
    unit, name = time_unit(seconds)
    return f"{seconds / unit:.3g} {name}"


def threshold(axis: dict[str, Any], where: str, value: float, text: str) -> tuple[Layout, Layout]:
    """A dashed line across the plot at x or y = value, and its label: (shape, annotation)."""
    other = "y" if where == "x" else "x"
    shape = {
        "type": "line", where + "0": value, where + "1": value, other + "0": 0, other + "1": 1,
        where + "ref": where, other + "ref": "paper", "line": {"color": "@bad", "dash": "dash", "width": 1.5},
    }  # fmt: skip
    place = (
        math.log10(value) if axis.get("type") == "log" else value
    )  # plotly's annotations differ from its shapes here
    label = {
        where: place, where + "ref": where, other: 1, other + "ref": "paper", "text": text, "showarrow": False,
        "yanchor": "bottom", "font": {"color": "@bad", "size": 11},
    }  # fmt: skip
    return shape, {**label, "xanchor": "right"}
