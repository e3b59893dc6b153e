"""This router's part in the observed logs: it follows all, writes those whose ingest lease it holds, and passes leases
on. No request waits for any of it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

import msgspec

from kvroute.router.core.changes import Change
from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.knowledge.sharing.following import Following
from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.ingest_lease import TTL_SECONDS, IngestLeases
from kvroute.router.knowledge.sharing.observed_follower import ObservedFollower
from kvroute.router.knowledge.sharing.observed_log import LogNames, Progress
from kvroute.router.knowledge.sharing.observed_writer import WriterSettings
from kvroute.router.knowledge.sharing.observed_writers import ObservedWriters
from kvroute.router.knowledge.sharing.store import Entry, EntryId, Store, StoreDown

_LOOK_SECONDS = 1.0
"""How often logs are compared with their tips, and how long a log that cannot be read is left alone."""
_COUNT = 4
"""Entries of one log in one read: with 64 replicas 16 MiB at the very most, and what waits is gathered into few."""
_AT_ONCE = 8
"""Logs that are read at the same time: each may have 1 MiB on its way."""
_LAST_WORD_SECONDS = 1.0
"""A router that ends tries so long to write what is left and to give its leases back."""


class ObservedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How what engines say is shared."""

    namespace: str = "kvroute"
    """Routers of one namespace share; it begins every key."""
    flush_seconds: float = 0.005
    """What an engine says is told to other routers at most so long after it was heard."""
    ttl_seconds: float = TTL_SECONDS
    """A dead router's engines are listened to by another after so long, and a second."""
    writer: WriterSettings = WriterSettings()


class _Reader:
    """What `Following` reads for one replica."""

    def __init__(self, follower: ObservedFollower, store: Store, clock: Callable[[], float]) -> None:
        self.key = follower.key
        self._follower = follower
        self._store = store
        self._clock = clock
        self._seen = EntryId()
        self._not_before = -math.inf

    @property
    def after(self) -> EntryId:
        """The last entry heard, whether or not it could be used: what cannot be is not read over and over."""
        after = self._follower.after
        return after if self._follower.synced else max(self._seen, after)

    async def entries(self, entries: Sequence[Entry]) -> None:
        """Carry them out; where they do not fit, read the snapshot."""
        if entries:
            self._seen = entries[-1].id
        if self._follower.take(entries) or self._clock() < self._not_before:
            return
        if not await self._follower.load(self._store):
            self._not_before = self._clock() + _LOOK_SECONDS


class ObservedSharing:
    """One router among several. All of it runs on one event loop."""

    def __init__(
        self,
        store: Store,
        observed: Observed,
        router: str,
        *,
        settings: ObservedSettings | None = None,
        live: Callable[[], Collection[str]] = lambda: (),
        on_won: Callable[[str, Progress], None] = lambda replica, progress: None,
        on_lost: Callable[[str], None] = lambda replica: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`router`: this router's name; `live` tells the names of those that are there.

        `on_won` hears that a replica's events are to be listened to, from `progress` on; `on_lost` that they no longer
        are, before anything else may change its row.
        """
        self.settings = settings or ObservedSettings()
        self.health = Health(clock)
        self.leases = IngestLeases(store, router, clock, self.settings.ttl_seconds)
        self.writers = ObservedWriters(store, clock, self.settings.writer)
        self.followers: dict[str, ObservedFollower] = {}
        self._store = store
        self._observed = observed
        self._live = live
        self._on_won = on_won
        self._on_lost = on_lost
        self._clock = clock
        self._following = Following(store, self.health, clock, self.settings.flush_seconds / 2, _COUNT)
        self._news = asyncio.Event()
        self._stir = asyncio.Event()
        self._writing = asyncio.Lock()
        self._looked = -math.inf
        self._cold: set[str] = set()
        """Replicas whose log has not been read yet."""
        self._tasks: list[asyncio.Task[None]] = []

    # -- start, end ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Follow and write in the background until `close`."""
        self._following.start()
        self._tasks = [
            run_in_background(self._flushing(), "writing what engines say"),
            run_in_background(self._tending(), "tending ingest leases"),
            run_in_background(self._renewing(), "renewing ingest leases"),
        ]

    async def close(self) -> None:
        """Write what is left, and give the leases back so that others go on at once. The store is its owner's."""
        await self._following.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreDown, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                for replica in list(self.leases.held):
                    await self._hand_over(replica)
        for replica in list(self.followers):
            self._stop(replica)

    async def warm(self) -> None:
        """Read the logs of replicas that are new here: after that their rows hold what other routers know.

        Raises:
            StoreDown: the store did not serve; what was read stays, the rest is read later.
        """
        await self._each(list(self._cold), self._warm)

    async def _warm(self, replica: str) -> None:
        follower = self.followers[replica]
        await follower.load(self._store)
        if replica in self._cold:
            self._cold.discard(replica)
            self._follow(follower)

    async def _each(self, replicas: Sequence[str], work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        """Do it for all, some at a time. Should it fail for one, the others are done all the same."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(replica: str) -> None:
            async with room:
                if replica in self.followers:
                    await work(replica)

        for result in await asyncio.gather(*map(one, replicas), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _follow(self, follower: ObservedFollower) -> None:
        if follower in self.followers.values():
            self._following.follow(_Reader(follower, self._store, self._clock))

    # -- the fleet ----------------------------------------------------------------------------------------------

    def joined(self, replica: str, row: int, block_tokens: int | None) -> None:
        """A replica is here, in this row; our keys stand for blocks of `block_tokens` (None: not known yet)."""
        names = LogNames(self.settings.namespace, replica)
        self.followers[replica] = ObservedFollower(names, self._observed, row, block_tokens)
        self.leases.joined(replica, names)
        self._cold.add(replica)
        self._stir.set()

    async def left(self, replica: str) -> None:
        """A replica is gone. What was written of it is let go of unless another router goes on with it.

        Raises:
            StoreDown: its lease could not be given back; it expires by itself.
        """
        follower = self.followers.pop(replica, None)
        if follower is None:
            return
        self._cold.discard(replica)
        self._following.leave(follower.key)
        self._stop(replica)
        try:
            await self.leases.release(replica)
        finally:
            self.leases.left(replica)

    def source(self, replica: str) -> Source:
        """How far its row may be believed."""
        return self.followers[replica].source

    # -- writing ------------------------------------------------------------------------------------------------

    def record(self, replica: str, changes: tuple[Change, ...], progress: Progress) -> None:
        """Its engine's events were carried out in its row, just now and up to `progress`. Only for whom `on_won` named
        last, and not after `on_lost`."""
        self.writers[replica].record(changes, progress)
        self._news.set()

    async def flush(self) -> int:
        """Write some of what waits; how many batches that were.

        Raises:
            StoreDown: the store did not serve; the same is written next time.
        """
        async with self._writing:
            sent = await self.writers.flush()
            for replica in self.writers.lost:
                self.leases.held.pop(replica, None)
                self._stop(replica)
        return sent

    async def _flushing(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.sleep(self.settings.flush_seconds)
            try:
                began = self._clock()
                while await self.flush():
                    self.health.served("writing what engines say", self._clock() - began)
                    began = self._clock()
            except StoreDown as error:
                self._news.set()
                await asyncio.sleep(self.health.failed("writing what engines say", error))

    # -- leases -------------------------------------------------------------------------------------------------

    async def _tending(self) -> None:
        works = (("reading logs", self.warm), ("tending leases", self.tend), ("looking after logs", self.look))
        while True:
            for name, work in works:
                try:
                    await work()
                except StoreDown as error:
                    self.health.failed(name, error)
                else:
                    self.health.served(name)
            self._stir.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.leases.seek_seconds):
                    await self._stir.wait()

    async def _renewing(self) -> None:
        """On its own: reading logs may take longer than a lease lasts."""
        while True:
            try:
                await self.renew()
            except StoreDown as error:
                self.health.failed("renewing leases", error)
            else:
                self.health.served("renewing leases")
            await asyncio.sleep(self.leases.renew_seconds)

    async def renew(self) -> None:
        """Prolong the leases that are held.

        Raises:
            StoreDown: the store did not serve.
        """
        for replica in await self.leases.renew():
            self._stop(replica)

    async def tend(self) -> None:
        """Win free leases, hand over what is another's by right.

        Raises:
            StoreDown: the store did not serve.
        """
        live = self._live()
        await self.leases.seek(live)
        await self._each([replica for replica in self.leases.held if replica not in self.writers], self._begin)
        surplus = self.leases.surplus(live)
        if surplus is not None:
            await self._hand_over(surplus)

    async def _begin(self, replica: str) -> None:
        """The lease is ours: write the log, and have the engine listened to."""
        token = self.leases.held.get(replica)
        if token is None:
            return
        follower = self.followers[replica]
        self._cold.discard(replica)
        self._following.leave(follower.key)
        try:
            await follower.load(self._store)
        except StoreDown:
            self._follow(follower)
            raise
        if self.leases.held.get(replica) != token:
            self._follow(follower)
            return
        self.writers.begin(replica, follower, token)
        self._on_won(replica, follower.progress)
        self._news.set()

    def _stop(self, replica: str) -> None:
        """Its log is another's, or nobody's: listen no more, write no more, follow."""
        if replica not in self.writers:
            return
        self._on_lost(replica)
        self._end(replica)

    def _end(self, replica: str) -> None:
        self.writers.end(replica)
        if replica in self.followers:
            self._follow(self.followers[replica])

    async def _hand_over(self, replica: str) -> None:
        """Listen no more, write what is left, give the lease back: another router goes on from there."""
        if replica in self.writers:
            self._on_lost(replica)
            try:
                async with self._writing:
                    while replica in self.writers and not (self.writers[replica].idle or self.writers[replica].lost):
                        await self.writers.flush()
            finally:
                self._end(replica)
        await self.leases.release(replica)

    async def look(self) -> None:
        """Compare all logs with their tips: those that are followed may have moved away, those that are written may
        be gone.

        Raises:
            StoreDown: the store did not serve.
        """
        if self._clock() - self._looked < _LOOK_SECONDS:
            return
        self._looked = self._clock()
        async with self._writing:
            await self.writers.inspect()
        self._news.set()
        followed = [
            (replica, follower)
            for replica, follower in self.followers.items()
            if not follower.writing and replica not in self._cold
        ]
        tips = await self._store.get([follower.names.tip for _, follower in followed])
        for (_, follower), tip in zip(followed, tips, strict=True):
            follower.check(tip)
            if tip is not None and not follower.synced:
                await follower.load(self._store)
