"""What observed logs cost: the server's memory for a whole fleet, the rates of writing and following, and how long a
new router takes to be warm.

python -m bench.sharing
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvloop

from kvroute.router.core import changes as changing
from kvroute.router.core.changes import Change, Medium, Removed, Stored, Words
from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.observed_follower import ObservedFollower
from kvroute.router.knowledge.sharing.observed_log import LogNames, Progress
from kvroute.router.knowledge.sharing.observed_writers import ObservedWriters
from kvroute.router.knowledge.sharing.place import place
from kvroute.router.knowledge.sharing.redis_store import RedisStore
from kvroute.router.knowledge.sharing.store import Batch, Put, StoreDown
from kvroute.router.testing.children import free_ports

BLOCKS = 64
"""Blocks of a batch of events."""
SHARED = 0.3
"""Share of a replica's keys that other replicas hold too."""
CHURN = 1.2
"""Blocks stored and removed beyond filling the tables, as a share of them: a fleet in use, tails at their longest."""
SEED = 3


@contextmanager
def redis() -> Iterator[str]:
    """A server of its own without persistence: its URL."""
    cached = Path.home() / ".cache" / "kvroute" / "redis" / "redis-server"
    program = os.environ.get("KVROUTE_REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        command = [program or str(cached), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


async def ready(store: RedisStore) -> int:
    """The server's memory once it answers, still empty [bytes]."""
    deadline = time.monotonic() + 10.0
    while True:
        try:
            return (await store.about()).used_bytes
        except StoreDown:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


class Engine:
    """A replica whose cache is full and turns over: new blocks push out the oldest."""

    def __init__(self, row: int, capacity: int, shared: Words) -> None:
        self._rng = np.random.default_rng((SEED, row))
        self._capacity = capacity
        self._shared = shared
        self._held: deque[Words] = deque()
        self._blocks = 0
        self.batches = 0

    def batch(self) -> tuple[Change, ...]:
        """The next batch of events, in our keys."""
        hashes = self._rng.integers(0, 2**64, BLOCKS, np.uint64)
        keys = self._rng.integers(0, 2**64, BLOCKS, np.uint64)
        common = self._rng.random(BLOCKS) < SHARED
        keys[common] = self._rng.choice(self._shared, int(common.sum()))
        self._held.append(hashes)
        self._blocks += BLOCKS
        self.batches += 1
        stored = Stored(Medium.GPU, hashes, keys)
        if self._blocks <= self._capacity:
            return (stored,)
        self._blocks -= BLOCKS
        return Removed(Medium.GPU, self._held.popleft()), stored


async def fill(store: RedisStore, engines: list[Engine], pairs: int) -> tuple[float, float, int]:
    """Write all logs as one router would; (CPU seconds of the writer's, wall seconds, the server's greatest memory)."""
    observed = Observed()
    writers = ObservedWriters(store, time.monotonic)
    for row in range(len(engines)):
        names = LogNames("bench", str(row))
        follower = ObservedFollower(names, observed, row, 16)
        await store.commit([Batch([Put(names.ingest, b"bench")])])
        await follower.load(store)
        writers.begin(str(row), follower, b"bench")
    cpu, most = 0.0, 0
    began = time.monotonic()
    rounds = int(pairs * (1 + CHURN) / BLOCKS / len(engines))
    for number in range(rounds):
        for row, engine in enumerate(engines):
            batch = engine.batch()
            changing.apply(observed, row, batch)
            start = time.process_time()
            writers[str(row)].record(batch, Progress(engine.batches, float(engine.batches), Source.EXACT))
            cpu += time.process_time() - start
        if number % 4 == 3:
            start = time.process_time()
            while await writers.flush():
                pass
            cpu += time.process_time() - start
        if number % 50 == 49:
            most = max(most, (await store.about()).used_bytes)
    while not writers.idle:
        await writers.flush()
    return cpu, time.monotonic() - began, most


async def warm(store: RedisStore, replicas: int) -> tuple[float, float, int]:
    """A router that starts: (wall seconds, CPU seconds, pairs) until it knows everything."""
    observed = Observed()
    followers = [ObservedFollower(LogNames("bench", str(row)), observed, row, 16) for row in range(replicas)]
    began, cpu = time.monotonic(), time.process_time()
    for follower in followers:
        if not await follower.load(store):
            raise RuntimeError("a log could not be read")
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    return wall, cpu, sum(observed.blocks(row) for row in range(replicas))


async def follow(store: RedisStore, engine: Engine) -> tuple[float, float]:
    """How fast one log is followed while it is written: blocks stored per CPU second, reading included; and the share
    of the tables in it."""
    names = LogNames("bench", "follow")
    observed, other = Observed(), Observed()
    writers = ObservedWriters(store, time.monotonic)
    await store.commit([Batch([Put(names.ingest, b"bench")])])
    writing, following = (ObservedFollower(names, table, 0, 16) for table in (observed, other))
    writers.begin("follow", writing, b"bench")
    await writers.flush()
    while not writers["follow"].idle:
        await writers.flush()
    await following.load(store)
    cpu = applying = 0.0
    blocks = 0
    for _ in range(200):
        for _ in range(10):
            batch = engine.batch()
            changing.apply(observed, 0, batch)
            writers["follow"].record(batch, Progress(engine.batches, 0.0, Source.EXACT))
            blocks += BLOCKS
        while not writers["follow"].idle:
            await writers.flush()
        start = time.process_time()
        found = await store.read({names.observed: following.after}, block_ms=0, count=64)
        read = time.process_time()
        if not following.take(found.get(names.observed, [])):
            raise RuntimeError("the follower fell out of step")
        cpu += time.process_time() - start
        applying += time.process_time() - read
    return blocks / cpu, applying / cpu


async def measure(pairs: int, replicas: int) -> None:
    shared = np.random.default_rng(SEED).integers(0, 2**64, pairs // replicas, np.uint64)
    engines = [Engine(row, pairs // replicas, shared) for row in range(replicas)]
    with redis() as url:
        store = RedisStore(place(url), limit=10.0)
        empty = await ready(store)
        cpu, wall, most = await fill(store, engines, pairs)
        used = (await store.about()).used_bytes
        blocks = sum(engine.batches for engine in engines) * BLOCKS
        print(f"{pairs:,} pairs on {replicas} replicas, {blocks:,} blocks stored in {wall:.0f} s")
        print(f"writing: {blocks / cpu:,.0f} blocks per CPU second, packing and sending")
        print(f"server: {(used - empty) / 1e6:.0f} MB now ({(used - empty) / pairs:.1f} bytes a pair), "
              f"{(most - empty) / 1e6:.0f} MB at most")  # fmt: skip
        seconds, cpu, known = await warm(store, replicas)
        print(f"warm: {seconds:.1f} s, of which {cpu:.1f} s CPU, for {known:,} pairs")
        rate, share = await follow(store, Engine(replicas, pairs // replicas, shared))
        print(f"following: {rate:,.0f} blocks per CPU second, {share:.0%} of it in the tables")
        await store.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=4_000_000)
    options.add_argument("--replicas", type=int, default=64)
    told = options.parse_args()
    uvloop.run(measure(told.pairs, told.replicas))


if __name__ == "__main__":
    main()
