"""All numbers of a page as tables, for those who want to read them, copy them, or cannot see plots."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kvroute.simulator.reports.distribution import Distribution
from kvroute.simulator.reports.html.curve import Curve
from kvroute.simulator.reports.html.run import Run
from kvroute.simulator.reports.measures import HIGHER, TIMES
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.reports.table import LATENCIES
from kvroute.simulator.reports.units import count, digits, percent, time

REGIMES = {"below": "below the knee", "at": "at the knee", "beyond": "saturated"}
RUNS = (
    "run", "regime", "TTFT mean", "TTFT p50", "TTFT p90", "TTFT p99", "TPOT mean", "TPOT p90", "E2E mean", "E2E p90",
    "E2E p99", "queueing p90", "completed/s", "output tokens/s", "cached", "believed", "bound", "balance of requests",
    "balance of work", "preemptions", "KV peak", "goodput/s", "good", "SLO",
)  # fmt: skip
MOST_COLUMNS = 6
NUMBER = ' class="n"'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """An HTML table; the first column names the row, the others are numbers."""
    heads = "".join(f"<th{'' if place == 0 else NUMBER}>{escape(one)}</th>" for place, one in enumerate(head))
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>" + "".join(f"<td{NUMBER}>{escape(one)}</td>" for one in row[1:]) + "</tr>"
        for row in rows
    )
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    parts = f"{named}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="card scroll" tabindex="0"><table>{parts}</table></div>'


def tables(runs: Sequence[Run], curve: Curve | None, alone: str = "") -> str:
    """Runs, replicas, and the points of the curve. `alone`: which runs they are, where there were more."""
    parts = _one(runs[0].summary) if len(runs) == 1 else [_all(runs, f"All runs{f', {alone}' if alone else ''}")]
    if curve is not None:
        parts.append(_points(curve))
    return "".join(parts)


def _all(runs: Sequence[Run], caption: str) -> str:
    """A column a run where they are few, else a row a run."""
    rows = [_run(one) for one in runs]
    if len(runs) > MOST_COLUMNS:
        return table(RUNS, rows, caption)
    (_, *labels), *measures = zip(RUNS, *rows, strict=True)
    return table(("", *labels), measures, caption)


def _one(summary: Summary) -> list[str]:
    names = Distribution.__struct_fields__
    rows = []
    for label, field in LATENCIES:
        found = getattr(summary, field)
        rows.append([label, *("-" if found is None else time(getattr(found, name)) for name in names)])
    facts = [
        ("requests", f"{summary.requests:,}"), ("completed", f"{summary.completed:,}"),
        ("refused", f"{summary.refused:,}"), ("unfinished", f"{summary.unfinished:,}"),
        ("duration", time(summary.duration_seconds)),
        ("offered", "at once" if summary.offered_rate is None else f"{digits(summary.offered_rate)} requests/s"),
        ("completed per second", f"{digits(summary.throughput_requests)} requests/s"),
        ("prompt tokens per second", count(summary.throughput_prompt_tokens)),
        ("output tokens per second", count(summary.throughput_output_tokens)),
        ("cached prompt tokens", percent(summary.cached_token_rate)),
        ("believed by the router", percent(summary.believed_token_rate)),
        ("upper bound", percent(summary.reusable_token_rate)),
        ("balance of requests, max/mean", digits(summary.balance_requests)),
        ("balance of work, max/mean", digits(summary.balance_work)),
        ("preemptions", f"{summary.preemptions:,}"),
        ("KV in use, mean and peak", f"{percent(summary.kv_usage_mean)}, {percent(summary.kv_usage_peak)}"),
    ]  # fmt: skip
    if summary.slo is not None:
        facts += [
            ("SLO", f"{summary.slo}: {_met(summary)}"),
            ("goodput", f"{digits(summary.goodput or 0.0)} requests/s"),
        ]
    replicas = [
        [one.name, f"{one.requests:,}", f"{one.prompt_tokens:,}", f"{one.cached_tokens:,}", f"{one.output_tokens:,}",
         f"{one.preemptions:,}"]
        for one in summary.per_replica
    ]  # fmt: skip
    head = ("replica", "requests", "prompt tokens", "cached", "output tokens", "preemptions")
    latencies = table(("latency", *names), rows, "Latencies of completed requests")
    left = latencies + table(head, replicas, "Replicas")
    return [f'<div class="beside"><div>{left}</div><div>{table(("", "value"), facts, "The run")}</div></div>']


def _met(summary: Summary) -> str:
    return "-" if summary.slo_met is None else "met" if summary.slo_met else "missed"


def _run(run: Run) -> list[str]:
    one = run.summary

    def latency(field: str, *statistics: str) -> list[str]:
        found = getattr(one, field)
        return ["-" if found is None else time(getattr(found, statistic)) for statistic in statistics]

    return [
        run.label, REGIMES[one.regime], *latency("ttft", "mean", "p50", "p90", "p99"), *latency("tpot", "mean", "p90"),
        *latency("e2e", "mean", "p90", "p99"), *latency("queue", "p90"), digits(one.throughput_requests),
        count(one.throughput_output_tokens), percent(one.cached_token_rate), percent(one.believed_token_rate),
        percent(one.reusable_token_rate), digits(one.balance_requests), digits(one.balance_work),
        f"{one.preemptions:,}", percent(one.kv_usage_peak), "-" if one.goodput is None else digits(one.goodput),
        "-" if one.slo_share is None else percent(one.slo_share), _met(one),
    ]  # fmt: skip


def _points(curve: Curve) -> str:
    known = dict.fromkeys(name for one in curve.series for point in one.points for name in point.figures)
    rows = []
    for one in curve.series:
        for point in one.points:
            cells = []
            for name in known:
                figure = point.figures.get(name)
                cells.append("-" if figure is None else figure_text(name, figure.mean, figure.half_width))
            met = "-" if point.met is None else "met" if point.met else "missed"
            rows.append([f"{one.label} at {point.x:g}", REGIMES[point.regime], met, *cells])
    head = (curve.axis, "regime", "SLO", *(name.replace("_", " ") for name in known))
    return f"<details><summary>All points of the capacity curve</summary>{table(head, rows)}</details>"


def figure_text(name: str, mean: float, half: float | None) -> str:
    """`1.23 s ± 45 ms`, in the unit of that measure."""
    timed = name.rpartition("_")[0] in TIMES
    written = time if timed else percent if name in HIGHER and name.endswith(("_rate", "_share")) else digits
    return written(mean) + ("" if half is None else f" ± {written(half)}")
