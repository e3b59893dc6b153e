"""Samples of all rounds made into one row per router and case."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.cases import CASES, Case, Figure
from bench.measure import Sample
from bench.routers import DIRECT, ROUTERS

RUST_PEERS = tuple(router.name for router in ROUTERS if router.rust_peer)


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


def by_case(samples: Sequence[Sample]) -> dict[str, list[Row]]:
    """The rows of every case that was run, by its name."""
    found = {case: [sample for sample in samples if sample.case == case.name] for case in CASES}
    return {case.name: rows(case, own) for case, own in found.items() if own}
