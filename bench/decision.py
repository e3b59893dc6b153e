"""The decision's own cost, in this process: reading the body, keying the prompt, looking up, choosing, reserving."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench import bodies, machine
from bench.cases import CONVERSATIONS, KIB, SEED, TURNS
from kvroute.router.core.decide import Deciding, Decision
from kvroute.router.core.fleet import Fleet
from kvroute.router.core.index import Index
from kvroute.router.core.replica import Spec, State
from kvroute.router.knowledge.text import TextLens
from kvroute.router.parse import Body, parse
from kvroute.scorers.contract import Column, Policy, Request
from kvroute.scorers.latency import latency

SIZES = (KIB, 16 * KIB, 64 * KIB)
REPLICAS = (4, 64)
IN_FLIGHT = 64
"""Requests open while the next is decided."""
WARM_UP = 500
"""First decisions, not counted."""
CAPACITY_TOKENS = 800_000.0
PATH = b"/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians over the decisions [microseconds]."""

    replicas: int
    body_bytes: int
    parse: float
    key: float
    """The lens: canonical text and chained keys."""
    decide: float
    """Look up, choose and reserve; `choose` is a part of it."""
    choose: float
    settle: float
    p99: float
    """99th percentile of key + decide."""

    @property
    def decision(self) -> float:
        """What the goal of 12 (4 replicas) and 40 (64 replicas) microseconds is about: key + decide."""
        return self.key + self.decide


class Watched:
    """A policy that notes how long its choice took, by whichever door it was asked."""

    def __init__(self, policy: Policy) -> None:
        self.seconds = 0.0
        self.choose = self._timed(policy.choose)
        few = getattr(policy, "choose_few", None)
        self.choose_few = None if few is None else self._timed(few)
        many = getattr(policy, "choose_many", None)
        self.choose_many = None if many is None else (many[0], self._timed(many[1]))

    def _timed(self, choose: Callable[..., int]) -> Callable[..., int]:
        def timed(*arguments: Any) -> int:
            begun = time.perf_counter()
            index = choose(*arguments)
            self.seconds = time.perf_counter() - begun
            return index

        return timed


def build(replicas: int, policy: Policy) -> Deciding:
    """A fleet of ready replicas of equal capacity, and the decision over it."""
    fleet = Fleet()
    deciding = Deciding(fleet, Index(), policy, np.random.default_rng(SEED))
    for number in range(replicas):
        name = f"10.0.0.{number}:8000"
        replica = fleet.join(Spec(name=name, endpoint=name, models=("m",)), 0.0)
        fleet.write(replica, Column.CAPACITY_TOKENS, CAPACITY_TOKENS)
        deciding.occupancy.set_capacity(replica.row, CAPACITY_TOKENS)
        fleet.move(replica, State.READY)
    return deciding


def stamped(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The bodies over and over, as the load generator sends them: conversations are new in each cycle."""
    cycle = 0
    while True:
        stamp = f"{cycle:016x}".encode()
        for line in lines:
            yield line.replace(bodies.STAMP.encode(), stamp, 1)
        cycle += 1


def measure(replicas: int, size: int, decisions: int) -> Costs:
    """Decide `decisions` times, with `IN_FLIGHT` requests open."""
    watched = Watched(latency())
    deciding = build(replicas, watched)
    lens = TextLens()
    source = stamped(list(bodies.chats(size, CONVERSATIONS, TURNS, SEED)))
    running: deque[tuple[Request, Decision]] = deque()
    spent: dict[str, list[float]] = {name: [] for name in ("parse", "key", "decide", "choose", "settle", "both")}
    gc.collect()
    gc.freeze()
    clock = time.perf_counter
    for count in range(decisions + WARM_UP):
        data = next(source)
        begun = clock()
        body = parse(PATH, data)
        parsed = clock()
        request = _request(lens, body, count)
        keyed = clock()
        decision = deciding.decide(request, keyed)
        decided = clock()
        if not isinstance(decision, Decision):
            raise RuntimeError(f"no replica was chosen: {decision}")
        running.append((request, decision))
        settled = 0.0
        if len(running) > IN_FLIGHT:
            done, at = running.popleft()
            before = clock()
            deciding.settle(done, at, before, completed=True, output_tokens=16)
            settled = clock() - before
        if count >= WARM_UP:
            values = (parsed - begun, keyed - parsed, decided - keyed, watched.seconds, settled, decided - parsed)
            for name, value in zip(spent, values, strict=True):
                spent[name].append(value * 1e6)
    gc.unfreeze()
    middle = {name: statistics.median(values) for name, values in spent.items() if name != "both"}
    return Costs(replicas, size, **middle, p99=statistics.quantiles(spent["both"], n=100)[98])


def _request(lens: TextLens, body: Body, number: int) -> Request:
    prompt = lens.read(body, "m", None)
    return Request(
        id=str(number),
        model="m",
        tokens=prompt.tokens,
        keys=prompt.keys,
        block_tokens=prompt.block_tokens,
        anchor=prompt.anchor,
        stream=body.stream,
        max_output_tokens=body.max_output_tokens,
    )


def run(decisions: int = 3000) -> list[dict[str, Any]]:
    """All sizes and fleets, on the router's core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {machine.cores()[0]})
    try:
        found = [measure(replicas, size, decisions) for replicas in REPLICAS for size in SIZES]
    finally:
        os.sched_setaffinity(0, allowed)
    return [{**asdict(costs), "decision": costs.decision} for costs in found]


def lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """The table, as text."""
    names = ("parse", "key", "decide", "choose", "decision", "p99", "settle")
    table = ["decision, microseconds (decision = key + decide; choose is a part of decide)"]
    table.append(f"{'replicas':>8} {'body':>6} " + " ".join(f"{name:>9}" for name in names))
    for row in found:
        size = f"{row['body_bytes'] // KIB}K"
        table.append(f"{row['replicas']:>8} {size:>6} " + " ".join(f"{row[name]:>9.1f}" for name in names))
    return table


if __name__ == "__main__":
    print("\n".join(lines(run())))
