"""This router's part in the sharing of knowledge: it tells what it does, hears what others do, and never makes a
request wait for either."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from kvroute.router.core.decide import Deciding
from kvroute.router.core.observed import Observed
from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.knowledge.sharing import names
from kvroute.router.knowledge.sharing.committing import Committing
from kvroute.router.knowledge.sharing.expected_log import ExpectedLog
from kvroute.router.knowledge.sharing.figures import Figures
from kvroute.router.knowledge.sharing.followers import FIELD, ExpectedFollower, PresenceFollower
from kvroute.router.knowledge.sharing.following import Following
from kvroute.router.knowledge.sharing.foreign import Foreign
from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.ingest_lease import IngestLeases
from kvroute.router.knowledge.sharing.observed_line import Listener
from kvroute.router.knowledge.sharing.observing import Observing
from kvroute.router.knowledge.sharing.presence import BEAT_SECONDS, TTL_SECONDS, Peers, Pulse
from kvroute.router.knowledge.sharing.store import Append, EntryId, Expire, Store, StoreDown, Trim, Write
from kvroute.router.knowledge.sharing.telling import RENEW_SECONDS, Telling
from kvroute.router.knowledge.sharing.turns import Turn
from kvroute.router.knowledge.sharing.warming import Warming

log = logging.getLogger(__name__)
_BEATS = 64
"""Beats that the store keeps: the last two seconds of sixteen routers."""
_FORGET_SECONDS = 60.0
"""How long a dead router's requests are kept in mind, should it come back."""
_LAST_WORD_SECONDS = 1.0
"""A router that ends tries so long to say so."""
_WORK = "beating"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How knowledge is shared."""

    namespace: str = "kvroute"
    """Routers of one namespace share; it begins every key."""
    flush_seconds: float = 0.005
    """A request is told to others at most so long after it was sent."""
    beat_seconds: float = BEAT_SECONDS
    ttl_seconds: float = TTL_SECONDS
    """A router that has been silent for so long is taken to be dead, and its load to be gone."""
    lease_seconds: float = 3.0
    """A dead router's engines are listened to by another after so long; and every router listens to all of them itself
    once the store has been away for so long."""
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
        listener: Listener | None = None,
    ) -> None:
        """`clock` [s] is the one that requests' `now` comes from. `router`: this router's id, random unless given.

        `listener` subscribes to engines' events where this router is to; None: it does so nowhere.
        """
        self.settings = set_ = settings or Settings()
        self.router = router if router is not None else secrets.randbits(64)
        self._clock = clock
        self._lives: dict[str, float] = {}
        self._followers: dict[str, ExpectedFollower] = {}
        self._writes: list[Write] = []
        """What else is to be written with the next beat."""
        self._renewed = -math.inf
        self._tasks: list[asyncio.Task[None]] = []
        self.health = Health(clock, set_.lease_seconds / 3)
        self.log = ExpectedLog(self.router, lambda replica: self._lives.get(replica, 0.0))
        deciding.ledger.journal = self.log
        self.foreign = Foreign(deciding, self.router)
        self.pulse = Pulse(self.router, set_.ttl_seconds)
        self.peers = Peers(set_.ttl_seconds)
        self._presence = PresenceFollower(names.presence(set_.namespace), self.pulse, self.peers, self.foreign, clock)
        self.following = Following(store, self.health, clock, set_.flush_seconds / 2)
        self.warming = Warming(store, self.following, self._presence, self.health, clock)
        self._committing = Committing(store, self.health, clock)
        self.telling = Telling(
            self.log,
            self._committing,
            self._followers,
            self.health,
            clock,
            namespace=set_.namespace,
            flush_seconds=set_.flush_seconds,
            keep_seconds=set_.keep_seconds,
            grace_seconds=set_.grace_seconds,
        )

        self.observing = None if listener is None else self._observing(deciding.index.observed, store, listener)

    def _observing(self, observed: Observed, store: Store, listener: Listener) -> Observing:
        name = f"{self.router:016x}"
        return Observing(
            store,
            observed,
            self.following,
            IngestLeases(store, name, self._clock, self.settings.lease_seconds),
            lambda: {name, *(f"{peer:016x}" for peer in self.peers)},
            listener,
            self.health,
            self._clock,
            namespace=self.settings.namespace,
            flush_seconds=self.settings.flush_seconds,
            alone_seconds=self.settings.lease_seconds,
            life=lambda replica: self._lives.get(replica, 0.0),
        )

    # --- start, end ---

    def start(self) -> None:
        """Begin to tell and to hear, in the background."""
        self.following.start()
        self._tasks = [
            run_in_background(self.telling.run(), "telling requests to other routers"),
            run_in_background(self._beating(), "beating"),
            run_in_background(self.warming.run(), "reading what was sent to new replicas"),
        ]
        if self.observing is not None:
            self.observing.start()

    async def warm(self, seconds: float) -> bool:
        """Wait until all that is known of the replicas that have joined was read, but so long at most. True: it was."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.warming.warm.wait()
                if self.observing is not None:
                    await self.observing.ready.wait()
                return True
        return False

    async def close(self) -> None:
        """Tell what is left to tell, and that this router has ended. The store is its owner's to close."""
        if self.observing is not None:
            with suppress(StoreDown, TimeoutError):
                async with asyncio.timeout(_LAST_WORD_SECONDS):
                    await self.observing.stop()
        await self.following.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(StoreDown, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                while await self.telling.flush():
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
            self.warming.add(follower)

    def restarted(self, replica: str, life: float = 0.0) -> None:
        """Its engine has started anew, with an empty cache. Records tell by `life` which engine they speak of; where
        that is unknown, those that others have read are dropped, for whoever starts later would believe them."""
        self._live(replica, life)
        if self.observing is not None:
            self.observing.restarted(replica)
        follower = self._followers.get(replica)
        if not life and follower is not None and follower.warm:
            self._writes.append(Trim(follower.key, follower.after))

    def left(self, replica: str) -> None:
        """The replica is gone from here: its Streams are followed no more, and vanish when no router has it."""
        grace = int(self.settings.grace_seconds * 1000)
        if self.observing is not None:
            # Where another router has it still, that one wins the lease, and keeps the keys alive as their writer.
            self._writes += [Expire(key, grace) for key in self.observing.writers.keys(replica)]
            self.observing.left(replica)
        follower = self._followers.pop(replica, None)
        if follower is None:
            return
        self.warming.drop(follower)
        self.telling.left(replica)
        self._lives.pop(replica, None)
        self._writes.append(Expire(follower.key, grace))
        for _ in self.foreign.left(replica, self._clock()):
            pass  # at once: its row may be another's soon

    def _live(self, replica: str, life: float) -> None:
        self._lives[replica] = life
        self.foreign.lived(replica, life)

    def _budget(self) -> float:
        """What one replica's Stream may take [bytes]."""
        return self.settings.tail_bytes / max(1, len(self._followers))

    # --- beating ---

    async def _beating(self) -> None:
        while True:
            try:
                await self.beat()
            except StoreDown as error:
                self.health.failed(_WORK, error)
            await self.sweep()
            await asyncio.sleep(self.settings.beat_seconds)

    async def beat(self) -> None:
        """Say that this router lives, and do what else is due.

        Raises:
            StoreDown: the store did not serve.
        """
        await self._say()
        now = self._clock()
        if self.pulse.arrived(now) or self.log.doubt:
            self.log.tell_again()
        if now - self._renewed >= RENEW_SECONDS:
            keep = int(self.settings.keep_seconds * 1000)
            await self._committing.commit(_WORK, [Expire(self._presence.key, keep), *self.telling.renewals()])
            self._renewed = now
        if self._writes:
            due = self._writes.copy()
            await self._committing.commit(_WORK, due)
            del self._writes[: len(due)]
        if self.pulse.deaf(now, 2 * self.settings.ttl_seconds):
            self._listen_anew()

    async def _say(self, *, leaving: bool = False) -> None:
        data = self.pulse.beat(self.log.newest, list(self.log.open), self._clock(), leaving=leaving)
        await self._committing.commit(_WORK, [Append(self._presence.key, {FIELD: data}, longest=_BEATS)])

    async def sweep(self) -> None:
        """Let go of the load of routers that have died."""
        now = self._clock()
        turn = Turn()
        for router in self.peers.lapsed(now):
            log.warning("another router (%016x) has fallen silent: its load is gone", router)
            await turn.through(self.foreign.dead(router, now))
        self.foreign.forget(now, _FORGET_SECONDS)

    def _listen_anew(self) -> None:
        """Read all Streams from their beginning: what was heard before is known by its number."""
        log.warning("own beats are written but not heard: the shared logs are read anew")
        self.pulse.listen_anew()
        self._presence.after = EntryId()
        for follower in self._followers.values():
            self.warming.add(follower)

    # --- to be shown ---

    @property
    def figures(self) -> Figures:
        """All numbers, as of now."""
        health, foreign = self.health, self.foreign
        return Figures(
            trouble=health.trouble,
            since=health.since,
            failures=health.failures,
            round_trip=health.round_trip,
            flushes=self.telling.flushes,
            told=self.telling.records,
            waiting=len(self.log),
            dropped=self.log.dropped,
            heard=foreign.records,
            lag=self.pulse.lag(self._clock()),
            lost=foreign.gaps,
            repeated=foreign.repeated,
            malformed=foreign.malformed + (0 if self.observing is None else self.observing.unreadable),
            routers=len(self.peers),
            foreign=len(foreign),
            lapses=self.pulse.lapses,
            cold=len(self.warming),
            ingesting=0 if self.observing is None else len(self.observing.writers),
            observed_gaps=0 if self.observing is None else self.observing.gaps,
            snapshots_loaded=0 if self.observing is None else self.observing.loads,
        )
