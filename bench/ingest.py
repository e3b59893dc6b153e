"""What taking in KV events costs: from the socket to the observed blocks, and how long a flood holds up the loop."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import IO, Any

import numpy as np
import uvloop

from bench import machine
from bench.publisher import CREDIT, batches
from kvroute.router.core.changes import Medium, Words
from kvroute.router.core.observed import Observed
from kvroute.router.knowledge.events.batch import decode
from kvroute.router.knowledge.events.replay import Sink
from kvroute.router.knowledge.events.sources import Found, Source
from kvroute.router.knowledge.events.stream import Stream
from kvroute.router.knowledge.events.subscription import Subscription, Wires

GOAL, STRETCH = 150_000, 500_000
"""Blocks a second of CPU, in batches of 64."""
STALL_GOAL = 0.020
"""Longest that the loop may be held up [seconds]."""
SHAPES = ((64, "stores"), (64, "turnover"), (1, "stores"))
"""(blocks of a batch, what it holds): `turnover` removes as many blocks as it stores."""
BLOCKS = 128_000
FLOOD_SOCKETS, FLOOD_SECONDS = 4, 3.0
HELD_BLOCKS = 62_500
"""What each replica holds when the flood begins, and loses at the first gap: 4 million over 64 replicas."""
WARM_UP = 50


@dataclass(frozen=True, slots=True)
class Cost:
    """One shape, over all its batches."""

    blocks: int
    """Of a batch."""
    kind: str
    per_second: float
    """Blocks stored per second of the receiving process' CPU, its ZMQ thread included."""
    zmq: float
    """Microseconds of CPU a batch: socket, frames, loop, ZMQ's thread."""
    decode: float
    rehash: float
    """Keys, parents and the stream's order."""
    store: float


@dataclass(frozen=True, slots=True)
class Stall:
    """A flood of several publishers at once."""

    publishers: int
    sent: int
    taken: int
    """Batches; the others were dropped on the way."""
    wall: float
    """Longest time between two turns of the loop [s]; on a busy machine others' work is in it."""
    cpu: float
    """Longest time that the loop's own thread worked between two turns [s]."""


class Nowhere:
    """Stands for `Observed` where its cost is to be left out. It knows the last block of a batch, the next parent."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def store(self, row: int, medium: int, hashes: Words, keys: Words) -> None:
        """Keep the last one."""
        self._last = {int(hashes[-1]): int(keys[-1])}

    def key_of(self, row: int, hash: int) -> int | None:
        """Our key behind an engine's hash."""
        return self._last.get(hash)

    def remove(self, row: int, medium: int, hashes: Words) -> int:
        """Every hash was known."""
        return 0


class Ignoring:
    """Stands for `Stream` where only the way to it is to be measured."""

    wants = None
    busy = False
    believes_empty = True

    def __init__(self) -> None:
        self.next = 0

    def live(self, sequence: int, payload: bytes, now: float) -> None:
        """A batch."""
        self.next = sequence + 1

    def replayed(self, batches: Sequence[tuple[int, bytes]], complete: bool, now: float) -> None:
        """Not asked for."""

    unreplayable = restarted = step = lambda self, now: None


def paid(sink: Sink, count: int, credit: IO[bytes]) -> asyncio.Future[float]:
    """Gives the publisher credit for what was taken. The answer: seconds of CPU from `WARM_UP` to the last batch."""
    live, begun = sink.live, 0.0
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def taken(sequence: int, payload: bytes, now: float) -> None:
        nonlocal begun
        live(sequence, payload, now)
        if sequence % CREDIT == CREDIT - 1:
            credit.write(b"x")
            credit.flush()
        if sequence == WARM_UP:
            begun = time.process_time()
        elif sequence == count - 1:
            done.set_result(time.process_time() - begun)

    sink.__dict__["live"] = taken
    return done


@contextmanager
def publisher(*arguments: object) -> Any:
    """The child process, on another core."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.publisher", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, machine.cores()[1][:1]),
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


async def through_the_wire(make: Callable[[], Sink], count: int, blocks: int, kind: str) -> float:
    """Seconds of CPU that this process needs for all batches but the first few, from the socket on."""
    wires = Wires()
    with publisher("credit", count, blocks, kind) as child:
        sink = make()
        done = paid(sink, count, child.stdin)
        subscription = Subscription(_source(child), sink, wires)
        subscription.open()
        async with asyncio.timeout(120):
            spent = await done
        subscription.close()
    wires.close()
    return spent


def here(payloads: Sequence[bytes], take: Callable[[int, bytes], object]) -> float:
    """Seconds of CPU for the same batches without a socket."""
    for number, payload in enumerate(payloads[:WARM_UP]):
        take(number, payload)
    begun = time.process_time()
    for number, payload in enumerate(payloads[WARM_UP:], WARM_UP):
        take(number, payload)
    return time.process_time() - begun


def measure(blocks: int, kind: str, stored: int, rounds: int) -> Cost:
    """Median of interleaved rounds."""
    count = min(stored // blocks, 20_000)
    payloads = list(batches(count, blocks, kind == "turnover"))
    found: dict[str, list[float]] = {"all": [], "zmq": [], "decode": [], "hashed": [], "stored": []}
    for _ in range(rounds):
        gc.collect()
        gc.freeze()
        found["all"].append(_run(through_the_wire(_stream, count, blocks, kind)))
        found["zmq"].append(_run(through_the_wire(Ignoring, count, blocks, kind)))
        found["decode"].append(here(payloads, lambda number, payload: decode(payload)))
        found["hashed"].append(here(payloads, _live(Nowhere())))
        found["stored"].append(here(payloads, _live(Observed())))
        gc.unfreeze()
    spent = {name: statistics.median(values) / (count - WARM_UP) for name, values in found.items()}
    return Cost(
        blocks,
        kind,
        blocks / spent["all"],
        zmq=spent["zmq"] * 1e6,
        decode=spent["decode"] * 1e6,
        rehash=(spent["hashed"] - spent["decode"]) * 1e6,
        store=(spent["stored"] - spent["hashed"]) * 1e6,
    )


async def flooded(publishers: int, seconds: float) -> Stall:
    """The longest that the loop is held up while several publishers send as fast as they can."""
    loop, wires, observed = asyncio.get_running_loop(), Wires(), _filled(publishers)
    longest = np.zeros(2)
    before = np.array((time.perf_counter(), time.thread_time()))

    def tick() -> None:
        nonlocal before
        now = np.array((time.perf_counter(), time.thread_time()))
        np.maximum(longest, now - before, out=longest)
        before = now
        timer[0] = loop.call_later(0.0005, tick)

    with publisher("flood", publishers, seconds, 64) as child:
        open_ones = [Subscription(_source(child), Stream(row, observed), wires) for row in range(publishers)]
        for subscription in open_ones:
            subscription.open()
        while not sum(subscription.status.heard.messages for subscription in open_ones):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        timer = [loop.call_soon(tick)]
        before = np.array((time.perf_counter(), time.thread_time()))
        sent = int(await asyncio.to_thread(child.stdout.readline))
        timer[0].cancel()
        taken = sum(subscription.status.heard.messages for subscription in open_ones)
        for subscription in open_ones:
            subscription.close()
    wires.close()
    return Stall(publishers, sent, taken, float(longest[0]), float(longest[1]))


def _source(child: subprocess.Popen[bytes]) -> Source:
    assert child.stdout is not None
    return Source(0, f"tcp://127.0.0.1:{int(child.stdout.readline())}", None, None, Found.CONFIG)


def _live(observed: Any) -> Callable[[int, bytes], None]:
    live = Stream(0, observed).live
    return lambda number, payload: live(number, payload, 0.0)


def _filled(rows: int) -> Observed:
    observed, rng = Observed(), np.random.default_rng(0)
    for row in range(rows):
        for _ in range(0, HELD_BLOCKS, 64):
            hashes, keys = rng.integers(0, 1 << 63, (2, 64), np.uint64)
            observed.store(row, Medium.GPU, hashes, keys)
    return observed


def _stream() -> Stream:
    return Stream(0, Observed())


def _run(work: Any) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def run(stored: int = BLOCKS, rounds: int = 3, seconds: float = FLOOD_SECONDS) -> dict[str, list[dict[str, Any]]]:
    """All shapes and the flood, on the router's core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {machine.cores()[0]})
    try:
        costs = [measure(blocks, kind, stored, rounds) for blocks, kind in SHAPES]
        stalls = [_run(flooded(publishers, seconds)) for publishers in (1, FLOOD_SOCKETS)]
    finally:
        os.sched_setaffinity(0, allowed)
    return {"costs": [asdict(cost) for cost in costs], "stalls": [asdict(stall) for stall in stalls]}


def lines(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The tables, as text."""
    table = ["KV events taken in: blocks per CPU-second, and microseconds of CPU a batch"]
    names = [field.name for field in fields(Cost)][3:]
    table.append(f"{'batch':>5} {'kind':>9} {'blocks/s':>9} " + " ".join(f"{name:>8}" for name in names))
    for row in found["costs"]:
        parts = " ".join(f"{row[name]:>8.1f}" for name in names)
        table.append(f"{row['blocks']:>5} {row['kind']:>9} {row['per_second']:>9,.0f} {parts}")
    reached = found["costs"][0]["per_second"]
    table.append(
        f"goal {GOAL:,}: {'met' if reached >= GOAL else 'missed'}; stretch {STRETCH:,}: "
        f"{'met' if reached >= STRETCH else 'missed'}"
    )
    table.append(
        f"longest time between two turns of the loop in a flood, {HELD_BLOCKS:,} blocks lost at its first gap "
        f"(goal: under {STALL_GOAL * 1000:.0f} ms)"
    )
    for row in found["stalls"]:
        table.append(
            f"{row['publishers']} publishers, {row['taken']:,} of {row['sent']:,} batches taken: "
            f"{row['wall'] * 1000:.1f} ms, {row['cpu'] * 1000:.1f} ms of it own work"
        )
    return table


if __name__ == "__main__":
    print("\n".join(lines(run())))
