"""Tables of what was measured, with its ratios to nginx and to the best Rust cache-aware router."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.cases import CASES, Case, Figure
from bench.measure import Sample
from bench.routers import DIRECT, ROUTERS

RUST_PEERS = tuple(router.name for router in ROUTERS if router.rust_peer)
WIDTH = 120


@dataclass(frozen=True, slots=True)
class Row:
    """One router in one case, over its rounds. None: not known (no router, or nothing came through)."""

    router: str
    best: float | None
    median: float | None
    per_second: float
    load: float | None
    """Share of one core that the router used."""
    p50: float
    p99: float
    added_p50: float | None
    added_p99: float | None
    resident: float | None
    errors: int


def progress(case: Case, sample: Sample) -> str:
    """One line while it runs."""
    figure = sample.figure(case.figure)
    shown = f"{figure:,.1f}" if figure is not None else "-"
    errors = f", {sample.errors} ERRORS {sample.statuses}" if sample.errors else ""
    return f"{case.name:6} round {sample.round + 1} {sample.router:14} {shown:>12} {case.figure.value}{errors}"


def less_is_better(case: Case) -> bool:
    """Whether the case's figure is a cost."""
    return case.figure in (Figure.CHUNK_COST, Figure.REQUEST_COST)


def rows(case: Case, samples: Sequence[Sample]) -> list[Row]:
    """One row per router, in the order in which they ran. Latencies are medians over the rounds."""
    direct = [sample for sample in samples if sample.router == DIRECT]
    made: list[Row] = []
    for name in dict.fromkeys(sample.router for sample in samples):
        own = [sample for sample in samples if sample.router == name]
        figures = [figure for sample in own if (figure := sample.figure(case.figure)) is not None]
        best = (min if less_is_better(case) else max)(figures) if figures else None
        p50, p99 = (statistics.median(getattr(sample, which) for sample in own) for which in ("p50", "p99"))
        floor50, floor99 = (
            statistics.median([getattr(sample, which) for sample in direct] or [0.0]) for which in ("p50", "p99")
        )
        counts = [(sample.events if case.stream else sample.requests) / sample.wall for sample in own if sample.wall]
        made.append(
            Row(
                name,
                best,
                statistics.median(figures) if figures else None,
                statistics.median(counts),
                statistics.median(sample.cpu / sample.wall for sample in own if sample.cpu) if figures else None,
                p50,
                p99,
                p50 - floor50 if name != DIRECT else None,
                p99 - floor99 if name != DIRECT else None,
                max((sample.resident for sample in own if sample.resident), default=None),
                sum(sample.errors for sample in own),
            )
        )
    return made


def best_peer(case: Case, made: Sequence[Row]) -> Row | None:
    """The best of the Rust cache-aware routers, by its best round."""
    peers = [row for row in made if row.router in RUST_PEERS and row.best is not None]
    if not peers:
        return None
    return (min if less_is_better(case) else max)(peers, key=lambda row: row.best or 0.0)


def show(results: dict[str, Any]) -> None:
    """Print everything."""
    console = Console(width=WIDTH)
    for key, value in results["machine"].items():
        console.print(f"{key}: {value}", highlight=False)
    for name, why in results["skipped"].items():
        console.print(f"skipped {name}: {why}", style="bold yellow", highlight=False, markup=False)
    samples = [Sample(**sample) for sample in results["samples"]]
    for case in CASES:
        own = [sample for sample in samples if sample.case == case.name]
        if own:
            made = rows(case, own)
            console.print(_table(case, made))
    for name, found in results["memory"].items():
        console.print(_memory(name, found), highlight=False)


def _table(case: Case, made: Sequence[Row]) -> Table:
    nginx = next((row for row in made if row.router == "nginx"), None)
    peer = best_peer(case, made)
    title = f"{case.name}: {case.title}: {case.figure.value}; {'chunks' if case.stream else 'requests'} per second"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 1))
    table.add_column("router", no_wrap=True)
    headers = ("best", "median", "x nginx", "x Rust", "per s", "core %", "p50 ms", "p99 ms", "+p50 ms", "+p99 ms", "MB")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("errors", justify="right")
    for row in made:
        table.add_row(
            row.router,
            _number(row.best),
            _number(row.median),
            _ratio(row, nginx),
            _ratio(row, peer),
            _number(row.per_second),
            f"{row.load * 100:.0f}" if row.load is not None else "-",
            _milliseconds(row.p50),
            _milliseconds(row.p99),
            _milliseconds(row.added_p50),
            _milliseconds(row.added_p99),
            f"{row.resident / 1e6:.0f}" if row.resident else "-",
            str(row.errors) if row.errors else "",
        )
    return table


def _memory(name: str, found: dict[str, Any]) -> str:
    points = "  ".join(f"{point['requests']:,}: {point['resident'] / 1e6:.1f}" for point in found["points"])
    return (
        f"memory of {name} [MB]: idle {found['idle'] / 1e6:.1f}; "
        f"after ever-new prompts of {found['prompt_bytes']} bytes: {points}; errors: {found['errors']}"
    )


def _ratio(row: Row, to: Row | None) -> str:
    if to is None or not to.best or row.best is None:
        return "-"
    return f"{row.best / to.best:.2f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.2f}"
