"""A capacity curve: what became of latencies and goodput as load or fleet grew."""

from __future__ import annotations

import msgspec

from kvroute.simulator.reports.cells import Figure
from kvroute.simulator.reports.knee import Regime
from kvroute.simulator.slo import Slo

RATE = "offered load [requests/s]"
SPEEDUP = "speed of the trace [times its own]"
CLIENTS = "clients"
REPLICAS = "replicas"
AXES = {"rate": RATE, "speedup": SPEEDUP, "concurrency": CLIENTS}


class CurvePoint(msgspec.Struct, frozen=True):
    """One load or fleet, over all its seeds."""

    x: float
    figures: dict[str, Figure]
    """By the names of `search.measures`; times in seconds."""
    regime: Regime
    met: bool | None = None
    """Whether the SLO was met; None: none was asked for."""


class Series(msgspec.Struct, frozen=True):
    """One line: a policy, a make of fleet."""

    label: str
    points: list[CurvePoint]
    """By ascending x."""


class Curve(msgspec.Struct, frozen=True):
    """All lines, and what they are measured by."""

    axis: str
    series: list[Series]
    slo: Slo | None = None
    marks: list[tuple[float, str]] = []
    """Places on the axis, and what is there: the knee, the answer."""
