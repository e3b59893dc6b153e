"""What the project set itself, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.cases import CASES, KIB
from bench.summary import RUST_PEERS, Row, best_peer

OURS = "kvroute"
CASE = {case.name: case for case in CASES}
GROWTH = 1.05
"""Resident memory may differ by this much between half and all of the ever-new prompts and still be called flat."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal: `value` shall be at least, or at most, `wanted`."""

    text: str
    value: float
    wanted: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted

    def __str__(self) -> str:
        relation = ">=" if self.at_least else "<="
        return f"{'met  ' if self.met else 'SHORT'} {self.text}: {self.value:.2f} (goal {relation} {self.wanted:g})"


def check(
    made: Mapping[str, Sequence[Row]], memory: dict[str, Any] | None, decisions: Sequence[dict[str, Any]]
) -> Iterator[Goal]:
    """Every goal that what was measured says something about."""
    for name, least in (("1k", 4.0), ("16k", 4.0), ("64k", 4.0), ("sse", 2.0), ("bulk", 2.0)):
        own, peer = _row(made, name, OURS), best_peer(CASE[name], made.get(name, ()))
        if own and peer and own.best and peer.best:
            yield Goal(f"{name}: times the best Rust peer ({peer.router})", own.best / peer.best, least, True)
    own, nginx = _row(made, "1k", OURS), _row(made, "1k", "nginx")
    if own and nginx and own.best and nginx.best:
        yield Goal("1k: nginx's requests per CPU-second over ours", nginx.best / own.best, 1.5, False)
    own, nginx = _row(made, "paced", OURS), _row(made, "paced", "nginx")
    if own and nginx and own.best and nginx.best:
        yield Goal("paced: our CPU per chunk over nginx's", own.best / nginx.best, 1.5, False)
    yield from _latency(made)
    for row in decisions:
        if row["body_bytes"] == KIB:
            wanted = 12.0 if row["replicas"] == 4 else 40.0
            yield Goal(f"decision at {row['replicas']} replicas, 1 KB [us]", row["decision"], wanted, False)
    if memory:
        points = memory["points"]
        growth = points[-1]["resident"] / points[len(points) // 2 - 1]["resident"]
        yield Goal("idle memory [MB]", memory["idle"] / 1e6, 100.0, False)
        yield Goal("memory after all ever-new prompts over half of them", growth, GROWTH, False)


def _latency(made: Mapping[str, Sequence[Row]]) -> Iterator[Goal]:
    own = _row(made, "open", OURS)
    if own is None or own.added_p50 is None or own.added_p99 is None:
        return
    yield Goal("open: added median latency [ms]", own.added_p50 * 1e3, 0.3, False)
    peers = [row.added_p99 for row in made["open"] if row.router in RUST_PEERS and row.added_p99 is not None]
    if peers:
        yield Goal("open: added p99 latency [ms], goal: the best peer's", own.added_p99 * 1e3, min(peers) * 1e3, False)


def _row(made: Mapping[str, Sequence[Row]], case: str, router: str) -> Row | None:
    return next((row for row in made.get(case, ()) if row.router == router), None)
