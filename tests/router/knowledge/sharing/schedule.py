"""Routers that share one log, moved on by hand: between any two calls to the store anything else may happen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from kvroute.router.core import changes as changing
from kvroute.router.core.changes import Change, Cleared, Removed, Stored
from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.memory_store import MemoryStore
from kvroute.router.knowledge.sharing.observed_follower import ObservedFollower
from kvroute.router.knowledge.sharing.observed_log import LogNames, Progress
from kvroute.router.knowledge.sharing.observed_writer import WriterSettings
from kvroute.router.knowledge.sharing.observed_writers import ObservedWriters
from kvroute.router.knowledge.sharing.store import (
    About,
    Batch,
    Ends,
    Entry,
    EntryId,
    Outcome,
    Put,
    StoreDown,
    Trouble,
)

NAMES = LogNames("test", "replica")
REPLICA = "replica"
LEASE_MS = 3000
SMALL = WriterSettings(entry_bytes=64, unit_bytes=200, backlog_bytes=600, share=0.5, least_tail=300, grace=1.0)
"""So small that snapshots, trims and overflows happen within a few steps."""
Fault: TypeAlias = Literal["ok", "unsent", "unanswered", "late"]
State: TypeAlias = dict[int, dict[int, tuple[int, int]]]
"""Medium -> hash -> (key, count)."""


class _Point:
    """Where a call waits until it is moved on."""

    def __await__(self) -> Generator[None, Fault, Fault]:
        return (yield)


class Wire:
    """One router's way to the store. Each call waits to be moved on, and may fail before or after it took effect, or
    take effect at some later time."""

    def __init__(self, server: MemoryStore, late: list[Sequence[Batch]]) -> None:
        self._server = server
        self._late = late

    async def commit(self, batches: Sequence[Batch]) -> list[Outcome]:
        fault = await _Point()
        if fault == "ok":
            return await self._server.commit(batches)
        if fault == "unanswered":
            await self._server.commit(batches)
        elif fault == "late":
            self._late.append(batches)
        raise StoreDown(Trouble.SLOW, "commit")

    async def _read(self) -> None:
        if await _Point() != "ok":
            raise StoreDown(Trouble.UNREACHABLE, "read")

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for key in keys:  # as in a cluster: not one step
            await self._read()
            found += await self._server.get([key])
        return found

    async def read(self, after: Mapping[str, EntryId], *, block_ms: int, count: int) -> dict[str, list[Entry]]:
        await self._read()
        return await self._server.read(after, block_ms=0, count=count)

    async def ends(self, keys: Sequence[str]) -> list[Ends]:
        await self._read()
        return await self._server.ends(keys)

    async def time_ms(self, key: str) -> int:
        await self._read()
        return await self._server.time_ms(key)

    def together(self, keys: Sequence[str]) -> list[list[str]]:
        return [list(keys)]

    async def span(self, key: str, first: EntryId, last: EntryId, count: int) -> list[Entry]:
        raise NotImplementedError

    async def scan(self, prefix: str) -> list[str]:
        raise NotImplementedError

    async def about(self) -> About:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Engine:
    """What a replica's events said, batch by batch: seeded, over few hashes, so that counts and removals meet."""

    def __init__(self) -> None:
        self.batches: list[tuple[Change, ...]] = []
        self._states: list[State] = [{}]
        self._fold = Observed()

    def emit(self, seed: int) -> None:
        rng = np.random.default_rng((len(self.batches), seed))
        self.batches.append(tuple(self._change(rng) for _ in range(rng.integers(1, 3))))
        changing.apply(self._fold, 0, self.batches[-1])
        self._states.append(plain(self._fold, 0))

    @staticmethod
    def _change(rng: np.random.Generator) -> Change:
        hashes = rng.integers(1, 12, rng.integers(1, 5 if rng.random() < 0.9 else 20)).astype(np.uint64)
        medium = int(rng.random() < 0.2)
        kind = rng.random()
        if kind < 0.03:
            return Cleared()
        return Stored(medium, hashes, hashes * np.uint64(1000)) if kind < 0.65 else Removed(medium, hashes)

    def state(self, progress: Progress) -> State:
        """What a replica holds, as far as these events tell."""
        return self._states[progress.next]


def plain(observed: Observed, row: int) -> State:
    """What a row holds, comparable."""
    return {
        medium: {
            hash: (key, count) for hash, key, count in zip(hashes.tolist(), keys.tolist(), counts.tolist(), strict=True)
        }
        for medium, hashes, keys, counts in observed.contents(row)
        if len(hashes)
    }


class Router:
    """One router: follows the log, and writes it while it holds, or believes to hold, the lease."""

    def __init__(
        self, number: int, server: MemoryStore, late: list[Sequence[Batch]], clock: Callable[[], float]
    ) -> None:
        self.row = number + 3
        self.observed = Observed()
        self.wire = Wire(server, late)
        self.follower = ObservedFollower(NAMES, self.observed, self.row, 16)
        self.writers = ObservedWriters(self.wire, clock, SMALL)
        self.token = b""
        self.call: Coroutine[Any, Fault, None] | None = None
        """What it is doing now."""
        self._number = number
        self._terms = 0

    @property
    def writing(self) -> bool:
        return REPLICA in self.writers

    def move(self, fault: Fault) -> None:
        """One call to the store more."""
        if self.call is None:
            return
        try:
            self.call.send(fault)
        except StopIteration:
            self.call = None
        except StoreDown:
            self.call = None

    def begin(self, call: Coroutine[Any, Fault, None]) -> None:
        """Start doing something, up to its first call to the store."""
        if self.call is not None:
            call.close()
            return
        self.call = call
        try:
            call.send(None)  # type: ignore[arg-type]
        except StopIteration:
            self.call = None

    async def win(self) -> None:
        """Try to win the lease, and write if it is won."""
        if self.writing:
            return
        self._terms += 1
        token = b"%d/%d" % (self._number, self._terms)
        await self.wire.commit([Batch([Put(NAMES.ingest, token, LEASE_MS)], given={NAMES.ingest: None})])
        if (await self.wire.get([NAMES.ingest])) == [token]:
            await self.follower.load(self.wire)
            self.writers.begin(REPLICA, self.follower, token)

    async def flush(self) -> None:
        await self.writers.flush()
        if self.writers.lost:
            self.writers.end(REPLICA)

    async def inspect(self) -> None:
        await self.writers.inspect()

    async def load(self) -> None:
        if not self.writing:
            await self.follower.load(self.wire)

    async def follow(self) -> None:
        found = await self.wire.read({NAMES.observed: self.follower.after}, block_ms=0, count=2)
        if not self.follower.take(found.get(NAMES.observed, [])):
            await self.follower.load(self.wire)

    async def check(self) -> None:
        self.follower.check(*await self.wire.get([NAMES.tip]))

    def ingest(self, engine: Engine, most: int) -> None:
        """Take in the engine's next events, as whoever writes the log does."""
        if not self.writing:
            return
        writer = self.writers[REPLICA]
        for _ in range(most):
            at = writer.progress.next
            if at >= len(engine.batches):
                return
            changing.apply(self.observed, self.row, engine.batches[at])
            writer.record(engine.batches[at], Progress(at + 1, float(at), Source.EXACT))

    def stop(self) -> None:
        """Write no more, whatever the lease says."""
        self.writers.end(REPLICA)


class World:
    """An engine, a store, and routers that share it."""

    def __init__(self, routers: int) -> None:
        self.now = 1000.0
        self.server = MemoryStore(lambda: self.now)
        self.late: list[Sequence[Batch]] = []
        self.engine = Engine()
        self._made = 0
        self.routers = [self._router() for _ in range(routers)]
        self._saved = copy.deepcopy(self.server.saved())

    def _router(self) -> Router:
        self._made += 1
        return Router(self._made, self.server, self.late, lambda: self.now)

    def kill(self, which: int) -> None:
        """A router dies in the middle of what it does; another starts in its place, knowing nothing."""
        if (call := self.routers[which].call) is not None:
            call.close()
        self.routers[which] = self._router()

    def arrive(self) -> None:
        """A batch that was given up reaches the server after all."""
        if self.late:
            for batch in self.late.pop(0):
                run(self.server.commit([batch]))

    def save(self) -> None:
        self._saved = copy.deepcopy(self.server.saved())

    def restore(self) -> None:
        """The server comes back with an old copy of its data: a failover to a copy that lagged."""
        self.server.restored(copy.deepcopy(self._saved))

    def evict(self, which: int) -> None:
        keys = sorted(run(self.server.scan("")))
        if keys:
            self.server.forget(keys[which % len(keys)])

    def hold(self) -> None:
        """Every row is exactly what the events up to its progress say."""
        for router in self.routers:
            assert plain(router.observed, router.row) == self.engine.state(router.follower.progress)

    def settle(self) -> None:
        """All is well again, for long enough: one router writes, all follow, and all know everything."""
        self.late.clear()
        for _ in range(3):
            self.now += 2 * LEASE_MS / 1000
            for router in self.routers:
                self.finish(router)
                self._do(router, router.flush())
        writer = self.routers[0]
        for router in self.routers:
            router.stop()
        self.server.forget(NAMES.ingest)
        self._do(writer, writer.win())
        assert writer.writing
        for _ in range(4):
            writer.ingest(self.engine, len(self.engine.batches))
            for _ in range(200):
                self._do(writer, writer.flush())
                if writer.writers.idle:
                    break
            self._do(writer, writer.inspect())
        for router in self.routers[1:]:
            for _ in range(2):
                self._do(router, router.check())
                while not router.follower.synced or router.follower.after != writer.follower.after:
                    before = router.follower.after, router.follower.loads, router.follower.synced
                    self._do(router, router.follow())
                    assert before != (router.follower.after, router.follower.loads, router.follower.synced)

    def finish(self, router: Router) -> None:
        """Let it do what it does, undisturbed."""
        while router.call is not None:
            router.move("ok")

    def _do(self, router: Router, call: Coroutine[Any, Fault, None]) -> None:
        router.begin(call)
        self.finish(router)


def run(call: Coroutine[Any, Any, Any]) -> Any:
    """The result of a call that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")
