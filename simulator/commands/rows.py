"""Runs as CSV: one line each, a column for each figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from kvroute.simulator.reports.measures import COMPARED, JUDGED, value
from kvroute.simulator.reports.summary import Summary

ABOUT = (
    "workload",
    "replicas",
    "seed",
    "requests",
    "completed",
    "refused",
    "offered_rate",
    "regime",
    "saturated",
    "slo_met",
)


def csv_of(runs: Sequence[tuple[str, str, Summary]]) -> bytes:
    """(what sets it apart, policy or fleet, figures) of each run; times in seconds, an empty cell: there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("load", "row", *ABOUT, *COMPARED, *JUDGED))
    for load, row, summary in runs:
        about = (getattr(summary, name) for name in ABOUT)
        figures = (value(summary, name) for name in (*COMPARED, *JUDGED))
        writer.writerow((load, row, *(_cell(one) for one in (*about, *figures))))
    return text.getvalue().encode()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return str(value)
