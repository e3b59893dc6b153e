"""This router's part in the sharing of knowledge: it tells what it does, hears what others do, and never makes a
request wait for either."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import msgspec

from kvroute.router.core.decide import Deciding
from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.knowledge.sharing import names
from kvroute.router.knowledge.sharing.expected_log import ExpectedLog, Page
from kvroute.router.knowledge.sharing.followers import FIELD, ExpectedFollower, PresenceFollower
from kvroute.router.knowledge.sharing.following import Following
from kvroute.router.knowledge.sharing.foreign import Foreign
from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.presence import BEAT_SECONDS, TTL_SECONDS, Peers, Pulse
from kvroute.router.knowledge.sharing.store import Append, Batch, EntryId, Expire, Store, StoreDown, Trim, Write
from kvroute.router.knowledge.sharing.turns import Turn

log = logging.getLogger(__name__)
_BEATS = 64
"""Beats that the store keeps: the last two seconds of sixteen routers."""
_COUNT = 16
"""Entries taken at once from a Stream that is read from its beginning."""
_RENEW_SECONDS = 20.0
"""How often the life of keys in use is made longer again."""
_FORGET_SECONDS = 60.0
"""How long a dead router's requests are kept in mind, should it come back."""
_LAST_WORD_SECONDS = 1.0
"""A router that ends tries so long to say so."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How knowledge is shared."""

    namespace: str = "kvroute"
    """Routers of one namespace share; it begins every key."""
    flush_seconds: float = 0.005
    """A request is told to others at most so long after it was sent."""
    beat_seconds: float = BEAT_SECONDS
    ttl_seconds: float = TTL_SECONDS
    """A router that has been silent for so long is taken to be dead, and its load to be gone."""
    tail_bytes: int = 32 << 20
    """What the Streams of sent requests take in the store, all replicas together: 4 million keys. A router that starts
    reads them, and so knows what was sent to replicas without KV events."""
    keep_seconds: float = 3600.0
    """What is known outlives the last router that uses it by so long."""
    grace_seconds: float = 60.0
    """The same for a replica that has left: routers that still have it keep its keys alive."""


class Sharing:
    """One router among several. Everything runs on one event loop, the requests' own."""

    def __init__(
        self,
        deciding: Deciding,
        store: Store,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.monotonic,
        router: int | None = None,
    ) -> None:
        """`clock` [s] is the one that requests' `now` comes from. `router`: this router's id, random unless given."""
        self.settings = settings or Settings()
        self.router = router if router is not None else secrets.randbits(64)
        self.health = Health(clock)
        self.pulse = Pulse(self.router, self.settings.ttl_seconds)
        self.peers = Peers(self.router, self.settings.ttl_seconds)
        self.foreign = Foreign(deciding, self.router)
        self._lives: dict[str, float] = {}
        self._news = asyncio.Event()
        self.log = ExpectedLog(self.router, lambda replica: self._lives.get(replica, 0.0), self._news.set)
        deciding.ledger.journal = self.log
        self._deciding = deciding
        self._store = store
        self._clock = clock
        self.following = Following(store, self.health, clock, self.settings.flush_seconds / 2)
        self._presence = PresenceFollower(
            names.presence(self.settings.namespace), self.pulse, self.peers, self.foreign, clock
        )
        self._followers: dict[str, ExpectedFollower] = {}
        self._cold: dict[str, ExpectedFollower] = {}
        self._chilled = asyncio.Event()
        self._chilled.set()
        self._warmed = asyncio.Event()
        self._renewed = -math.inf
        self._kept: dict[str, float] = {}
        """When the life of a replica's Stream was made longer [s]."""
        self._writes: list[Write] = []
        """What else is to be written with the next beat."""
        self._tasks: list[asyncio.Task[None]] = []
        self.flushes = 0
        """Batches of records that have arrived."""
        self.records = 0
        """Records that have arrived."""

    # --- start, end ---

    def start(self) -> None:
        """Begin to tell and to hear, in the background."""
        self.following.start()
        self._tasks = [
            run_in_background(self._flushing(), "telling requests to other routers"),
            run_in_background(self._beating(), "beating"),
            run_in_background(self._warming(), "reading what was sent to new replicas"),
        ]

    async def warm(self, seconds: float) -> bool:
        """Wait until all replicas' Streams have been read from their beginning, but so long at most. True: they are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._warmed.wait()
        return self._warmed.is_set()

    async def close(self) -> None:
        """Tell what is left to tell, and that this router has ended. The store is its owner's to close."""
        await self.following.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(StoreDown, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                while await self.flush():
                    pass
                await self._say(leaving=True)

    # --- the fleet ---

    def joined(self, replica: str, life: float = 0.0) -> None:
        """A replica is here: read what was sent to it.

        `life` is when its engine was started [s since 1970], 0 where that is unknown.
        """
        self._live(replica, life)
        if replica not in self._followers:
            key = names.expected(self.settings.namespace, replica)
            follower = ExpectedFollower(key, replica, self.foreign, self._clock, self._budget)
            self._followers[replica] = follower
            self._chill(follower)

    def restarted(self, replica: str, life: float = 0.0) -> None:
        """Its engine has started anew, with an empty cache. Records tell by `life` which engine they speak of; where
        that is unknown, those that others have read are dropped, for whoever starts later would believe them."""
        self._live(replica, life)
        follower = self._followers.get(replica)
        if not life and follower is not None and follower.warm:
            self._writes.append(Trim(follower.key, follower.after))

    def left(self, replica: str) -> None:
        """The replica is gone from here: its Stream is followed no more, and vanishes when no router has it."""
        follower = self._followers.pop(replica, None)
        if follower is None:
            return
        self.following.leave(follower.key)
        self._cold.pop(follower.key, None)
        self._lives.pop(replica, None)
        self._kept.pop(replica, None)
        self._writes.append(Expire(follower.key, int(self.settings.grace_seconds * 1000)))
        for _ in self.foreign.left(replica, self._clock()):
            pass
        self.log.forget(replica)

    def _live(self, replica: str, life: float) -> None:
        self._lives[replica] = life
        self.foreign.lived(replica, life)

    def _budget(self) -> float:
        return self.settings.tail_bytes / max(1, len(self._followers))

    # --- telling ---

    async def _flushing(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.sleep(self.settings.flush_seconds)
            try:
                while await self.flush():
                    pass
            except StoreDown as error:
                self._news.set()
                await asyncio.sleep(self.health.failed("telling requests", error))

    async def flush(self) -> bool:
        """Tell one batch; False: there was none.

        Raises:
            StoreDown: the store did not serve; the same batch comes again, and counts once.
        """
        pages = self.log.batch()
        if not pages:
            return False
        now = self._clock()
        await self._commit("telling requests", [write for page in pages for write in self._appending(page, now)])
        self.log.sent()
        for page in pages:
            if self._is_due(page.replica, now):
                self._kept[page.replica] = now
        self.flushes += 1
        self.records += sum(page.records for page in pages)
        return True

    def _appending(self, page: Page, now: float) -> Iterator[Write]:
        """What tells a page, and keeps its Stream from being there for ever."""
        follower = self._followers.get(page.replica)
        key = names.expected(self.settings.namespace, page.replica)
        if follower is None:  # the end of a request to a replica that has left
            yield Append(key, {FIELD: page.data}, longest=_BEATS)
            yield Expire(key, int(self.settings.grace_seconds * 1000))
            return
        yield Append(key, {FIELD: page.data}, longest=follower.longest)
        if self._is_due(page.replica, now):
            yield Expire(key, int(self.settings.keep_seconds * 1000))

    def _is_due(self, replica: str, now: float) -> bool:
        """Whether its Stream's life is to be made longer again."""
        return replica in self._followers and now - self._kept.get(replica, -math.inf) >= _RENEW_SECONDS

    async def _commit(self, work: str, writes: Sequence[Write]) -> None:
        """Carry out writes, each group that may go together in one step."""
        of_key: dict[str, list[Write]] = {}
        for write in writes:
            of_key.setdefault(write.key, []).append(write)
        groups = self._store.together(list(of_key))
        began = self._clock()
        await self._store.commit([Batch([write for key in group for write in of_key[key]]) for group in groups])
        self.health.served(work, self._clock() - began)

    # --- beating ---

    async def _beating(self) -> None:
        while True:
            try:
                await self.beat()
            except StoreDown as error:
                self.health.failed("beating", error)
            await self.sweep()
            await asyncio.sleep(self.settings.beat_seconds)

    async def beat(self) -> None:
        """Say that this router lives, and what else is due.

        Raises:
            StoreDown: the store did not serve.
        """
        await self._say()
        now = self._clock()
        if self.pulse.arrived(now):
            self.log.doubt = True
        if self.log.doubt:
            self.log.tell_again()
        if now - self._renewed >= _RENEW_SECONDS:
            await self._commit("beating", self._renewals())
            self._renewed = now
            self._kept = dict.fromkeys(self._kept, now)
        if self._writes:
            due = self._writes.copy()
            await self._commit("beating", due)
            del self._writes[: len(due)]
        if self.pulse.deaf(now, 2 * self.settings.ttl_seconds):
            self._listen_anew()

    async def _say(self, *, leaving: bool = False) -> None:
        data = self.pulse.beat(self.log.newest, list(self.log.open), self._clock(), leaving=leaving)
        await self._commit("beating", [Append(self._presence.key, {FIELD: data}, longest=_BEATS)])

    async def sweep(self) -> None:
        """Let go of the load of routers that have died."""
        now = self._clock()
        turn = Turn()
        for router in self.peers.lapsed(now):
            log.warning("another router (%016x) has fallen silent: its load is gone", router)
            await turn.through(self.foreign.dead(router, now))
        self.foreign.forget(now, _FORGET_SECONDS)

    def _renewals(self) -> list[Write]:
        keep = int(self.settings.keep_seconds * 1000)
        keys = [self._presence.key, *(follower.key for follower in self._followers.values())]
        return [Expire(key, keep) for key in keys]

    # --- hearing ---

    def _listen_anew(self) -> None:
        """Read all Streams from their beginning: what was heard before is known by its number."""
        log.warning("own beats are written but not heard: the shared logs are read anew")
        self.pulse.listen_anew()
        self._presence.after = EntryId()
        for follower in self._followers.values():
            self.following.leave(follower.key)
            self._chill(follower)

    def _chill(self, follower: ExpectedFollower) -> None:
        follower.rewind()
        self._cold[follower.key] = follower
        self._warmed.clear()
        self._chilled.set()

    async def _warming(self) -> None:
        while True:
            await self._chilled.wait()
            try:
                await self.warm_up()
            except StoreDown as error:
                await asyncio.sleep(self.health.failed("reading what was sent", error))

    async def warm_up(self) -> None:
        """Read the Streams that have not been read yet from their beginning, one by one; then follow them.

        Raises:
            StoreDown: the store did not serve; what was read counts.
        """
        await self._meet()
        while self._cold:
            follower = next(iter(self._cold.values()))
            while found := await self._store.read({follower.key: follower.after}, block_ms=0, count=_COUNT):
                await follower.entries(found[follower.key])
            if self._cold.get(follower.key) is follower:
                del self._cold[follower.key]
                follower.warm = True
                self.following.follow(follower)
        self.health.served("reading what was sent")
        self._chilled.clear()
        self._warmed.set()

    async def _meet(self) -> None:
        """Hear who is alive, before what they have sent."""
        key = self._presence.key
        self._presence.ahead = await self._store.time_ms(key) / 1000 - self._clock()
        while found := await self._store.read({key: self._presence.after}, block_ms=0, count=_BEATS):
            await self._presence.entries(found[key])
        self.following.follow(self._presence)
