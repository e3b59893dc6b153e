"""The observed logs of all replicas: this router writes those whose ingest lease it holds, and follows the others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from kvroute.router.core.changes import Change, Cleared
from kvroute.router.core.observed import Observed
from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.knowledge.sharing.doubts import Doubts
from kvroute.router.knowledge.sharing.flushing import keep_flushing
from kvroute.router.knowledge.sharing.following import Following
from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.ingest_lease import IngestLeases
from kvroute.router.knowledge.sharing.observed_follower import ObservedFollower
from kvroute.router.knowledge.sharing.observed_line import Line, Listener
from kvroute.router.knowledge.sharing.observed_log import LogNames, Progress
from kvroute.router.knowledge.sharing.observed_writers import ObservedWriters
from kvroute.router.knowledge.sharing.store import Store, StoreDown

UNUSED_SECONDS = 10.0
"""A lease that is held for so long without a writer, while nothing else is being read, is given back."""
_SAME_LIFE = 1.0
"""An engine's events are later than its start, by clocks that may differ by so much [s]."""
_LEASING, _WRITING, _LOOKING = "holding ingest leases", "writing observed logs", "looking after observed logs"


class Observing:
    """The logs of all replicas that have KV events."""

    def __init__(
        self,
        store: Store,
        observed: Observed,
        following: Following,
        leases: IngestLeases,
        live: Callable[[], Collection[str]],
        listener: Listener,
        health: Health,
        clock: Callable[[], float],
        *,
        namespace: str,
        flush_seconds: float,
        alone_seconds: float,
        life: Callable[[str], float] = lambda _: 0.0,
    ) -> None:
        """`live`: names of the routers that are there, as `leases` has them. Once the store has not served for
        `alone_seconds`, this router follows all events itself, until it does. `life`: replica -> when its engine
        was started [s since 1970], 0 where that is unknown."""
        self._store = store
        self._observed = observed
        self._following = following
        self._leases = leases
        self._listener = listener
        self._health = health
        self._namespace = namespace
        self._flush_seconds = flush_seconds
        self._live = live
        self._alone_seconds = alone_seconds
        self._look_seconds = alone_seconds / 3
        """How often it is looked whether the logs are still what they were."""
        self._lines: dict[str, Line] = {}
        self._leaving: set[str] = set()
        """Replicas that have left, and whose lease is still to be given back."""
        self._alone: set[str] = set()
        """Replicas whose events we follow because the store is away, for ourselves only."""
        self._renewed = -math.inf
        self._news = asyncio.Event()
        self._due = asyncio.Event()
        self.ready = asyncio.Event()
        """Set while every log has been read, as far as there is one."""
        self.ready.set()
        self._past_gaps = self._past_loads = self._past_unreadable = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._inspected = self._moved = clock()
        self._clock = clock
        self._turn = asyncio.Lock()
        """The writers send one thing at a time."""
        self.writers = ObservedWriters(store, clock)
        self._life = life
        self._doubts = Doubts(store)

    def start(self) -> None:
        """Write and follow in the background."""
        self._tasks = [
            run_in_background(self._leasing(), _LEASING),
            run_in_background(self._writing(), _WRITING),
            run_in_background(self._looking(), _LOOKING),
        ]

    async def stop(self) -> None:
        """Write what is left to write, and give the leases back.

        Raises:
            StoreDown: the store did not serve; the leases end by themselves.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for replica in list(self._leases.held):
            await self._hand_over(replica)

    @property
    def gaps(self) -> int:
        """Times that a log went on elsewhere than where we were."""
        return self._past_gaps + sum(line.follower.gaps for line in self._lines.values())

    @property
    def loads(self) -> int:
        """Times that a log was read from its snapshot."""
        return self._past_loads + sum(line.follower.loads for line in self._lines.values())

    @property
    def unreadable(self) -> int:
        """Times that a log held what no router of this version wrote."""
        return self._past_unreadable + sum(line.follower.unreadable for line in self._lines.values())

    # --- the fleet ---

    def joined(self, replica: str, row: int, block_tokens: int) -> None:
        """A replica with KV events is here; `block_tokens` is the size of the blocks that our keys stand for."""
        if replica in self._lines:
            return
        follower = ObservedFollower(LogNames(self._namespace, replica), self._observed, row, block_tokens)
        follower.changed = lambda changes: self._listener.changed(replica, changes)
        self._lines[replica] = Line(replica, follower, self._listener, self._stray)
        self._leases.joined(replica, follower.names)
        self._leaving.discard(replica)
        self.ready.clear()
        self._due.set()

    def left(self, replica: str) -> None:
        """It is gone, or has no events any more."""
        line = self._lines.pop(replica, None)
        if line is not None:
            self._past_gaps += line.follower.gaps
            self._past_loads += line.follower.loads
            self._past_unreadable += line.follower.unreadable
            self._following.leave(line.key)
            self._end(replica)
            if replica in self._alone:
                self._alone.discard(replica)
                self._listener.ingest(replica, None)
            line.follower.writing = True  # its row may be another replica's soon
            self._leaving.add(replica)

    def restarted(self, replica: str) -> None:
        """Its engine is another one now. Its events tell so, whoever follows them; we only make sure that they are not
        taken up behind those of the engine before."""
        line = self._lines.get(replica)
        if line is not None:
            line.outlived = line.follower.progress.stamp

    def doubt(self, replica: str) -> bool:
        """Requests find nothing of what another router told that it holds. True: that router will hear of it."""
        line = self._lines.get(replica)
        if line is None or line.follower.writing or not line.follower.synced:
            return False
        if not line.follower.doubted:
            line.follower.doubted = True
            line.tell_source()
            self._due.set()
        return True

    def record(self, replica: str, changes: Sequence[Change], progress: Progress) -> None:
        """Events were carried out just now, by the router that was told to `ingest` them."""
        if replica in self.writers:
            self.writers[replica].record(tuple(changes), progress)
            self._news.set()
        elif replica in self._alone:
            self._lines[replica].follower.progress = progress

    def mine(self, replica: str) -> bool:
        """Whether this router follows the replica's own events."""
        return replica in self.writers

    # --- leases ---

    async def _leasing(self) -> None:
        while True:
            try:
                await self.hold()
            except StoreDown as error:
                self._health.failed(_LEASING, error)
            self.watch()
            await asyncio.sleep(self._leases.seek_seconds)

    async def hold(self) -> None:
        """Renew leases, win those that are free, and hand on what another router should have.

        Raises:
            StoreDown: the store did not serve.
        """
        leases, live = self._leases, self._live()
        now = self._clock()
        if now - self._renewed >= leases.renew_seconds:
            for replica in await leases.renew():
                self._lose(replica)
            self._renewed = now
        while self._leaving:
            replica = self._leaving.pop()
            try:
                await leases.release(replica)
            finally:
                if replica not in self._lines:
                    leases.left(replica)
        won = await leases.seek(live)
        if won:
            self._due.set()
        surplus = leases.surplus(live)
        if surplus is not None:
            await self._hand_over(surplus)
        for replica in self._unused(now):
            await leases.release(replica)
        self._health.served(_LEASING)

    def _unused(self, now: float) -> list[str]:
        """Leases of which nothing comes: another router may have more luck."""
        if now - self._moved < UNUSED_SECONDS:
            return []
        unused = self._leases.held.keys() - self._alone
        return [
            replica
            for replica in unused
            if replica not in self.writers and now - self._leases.since(replica) >= UNUSED_SECONDS
        ]

    def watch(self) -> None:
        """While the store is away nobody tells us any more: follow all events ourselves, until it is back."""
        lasting = self._health.lasting
        if lasting >= self._alone_seconds:
            for replica, line in list(self._lines.items()):  # a replica that cannot be subscribed to leaves
                if replica not in self.writers and replica not in self._alone:
                    self._alone.add(replica)
                    self._following.leave(line.key)
                    line.follower.writing = True
                    line.written()
                    self._ingest(line)
        elif not lasting:
            for replica in list(self._alone):
                self._agree_again(replica)

    def _agree_again(self, replica: str) -> None:
        """What was observed alone gives way to the log, where there still is one."""
        self._alone.discard(replica)
        follower = self._lines[replica].follower
        follower.writing = False
        follower.lose()
        self._listener.ingest(replica, None)
        self._due.set()

    async def _hand_over(self, replica: str) -> None:
        """Another router is to follow this replica's events: tell it all that we know, then give the lease back."""
        writers = self.writers
        if replica in writers:
            self._listener.ingest(replica, None)
            try:
                while replica in writers and not writers[replica].idle and await self.flush():
                    pass
            finally:
                writers.end(replica)
                self._due.set()
        await self._leases.release(replica)

    def _lose(self, replica: str) -> None:
        """Another router follows this replica's events now, or will soon."""
        self._end(replica)
        self._due.set()

    def _end(self, replica: str) -> None:
        if replica in self.writers:
            self.writers.end(replica)
            self._listener.ingest(replica, None)

    async def _begin(self, replica: str) -> None:
        """Make use of a lease: come to the log's tip, then go on with the engine's events from there."""
        line, token = self._lines.get(replica), self._leases.held.get(replica)
        if line is None or token is None or replica in self._alone:
            return
        self._following.leave(line.key)
        await line.follower.load(self._store)
        if self._lines.get(replica) is not line or self._leases.held.get(replica) != token:
            self._due.set()
            return
        self.writers.begin(replica, line.follower, token)
        line.looked = True
        line.written()
        self._ingest(line)
        self._news.set()

    def _ingest(self, line: Line) -> None:
        """Follow the engine's events. What is known of an engine that is no more is forgotten before: the numbers of
        the one that took its place may have come to be the same."""
        progress, life = line.follower.progress, self._life(line.replica)
        until = life - _SAME_LIFE if life else line.outlived
        if progress.next and progress.stamp <= until:
            line.follower.restart()
            self.record(line.replica, (Cleared(),), Progress())
            self._listener.changed(line.replica, (Cleared(),))
        doubted, line.follower.doubted = line.follower.doubted, False
        self._listener.ingest(line.replica, line.follower.progress)
        if doubted:
            self._listener.doubted(line.replica)

    # --- writing ---

    async def _writing(self) -> None:
        await keep_flushing(self._news, self._flush_seconds, self.flush, self._health, _WRITING)

    async def flush(self) -> int:
        """Send some of what waits; how many batches that were.

        Raises:
            StoreDown: the store did not serve.
        """
        async with self._turn:
            sent = await self.writers.flush()
        self._health.served(_WRITING)
        for replica in self.writers.lost:
            self._leases.held.pop(replica, None)
            self._lose(replica)
        return sent

    # --- following ---

    def _stray(self, line: Line) -> None:
        """What this log says does not follow on what is known: it is to be read anew."""
        self._following.leave(line.key)
        self._due.set()

    async def _looking(self) -> None:
        while True:
            try:
                await self.look()
            except StoreDown as error:
                await asyncio.sleep(self._health.failed(_LOOKING, error))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._due.wait()

    async def look(self) -> None:
        """Begin what was won, read what is to be read, and see whether the rest is still the same log.

        Raises:
            StoreDown: the store did not serve.
        """
        self._due.clear()
        await self._doubts.tell(self._lines.values())
        for replica in [replica for replica in self._leases.held if replica not in self.writers]:
            await self._begin(replica)
            self._moved = self._clock()
        if self._clock() - self._inspected >= self._look_seconds:
            await self._inspect()
        lines = [line for line in self._lines.values() if not line.follower.writing]
        tips = await self._store.get([line.follower.names.tip for line in lines])
        for line, tip in zip(lines, tips, strict=True):
            line.follower.check(tip)
            if not line.follower.synced and tip is not None and not line.follower.writing:
                self._following.leave(line.key)
                await line.follower.load(self._store)
            self._moved = self._clock()
            line.looked = True
            line.tell_source()
            if line.follower.synced and self._lines.get(line.replica) is line and not line.follower.writing:
                self._following.follow(line)
        self._health.served(_LOOKING)
        if all(line.looked for line in self._lines.values()):
            self.ready.set()

    async def _inspect(self) -> None:
        """Whether the logs that we write are still there."""
        async with self._turn:
            await self.writers.inspect()
        self._inspected = self._clock()
        self._news.set()
        for replica in await self._doubts.heard(self.writers):
            self._listener.doubted(replica)
