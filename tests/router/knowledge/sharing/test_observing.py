"""Observed logs of several routers: one writes what it is told by the engine, the others know it too, and take over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from kvroute.router.core import changes as changing
from kvroute.router.core.changes import Change, Removed, Stored
from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.following import Following
from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.memory_store import MemoryStore
from kvroute.router.knowledge.sharing.observed_log import Progress
from kvroute.router.knowledge.sharing.observing import Observing
from kvroute.router.knowledge.sharing.store import Batch, Put, Store
from tests.router.knowledge.sharing.routers import Clock

_KEY = "{kvroute:r0}:ingest"


class Given:
    """Leases that the test hands out."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.won: dict[str, bytes] = {}
        self.lost: list[str] = []
        self.wanted: set[str] = set()

    def add(self, replica: str, key: str) -> None:
        self.wanted.add(replica)

    def drop(self, replica: str) -> None:
        self.wanted.discard(replica)

    async def turn(self) -> tuple[dict[str, bytes], list[str]]:
        won, lost = self.won, self.lost
        self.won, self.lost = {}, []
        return won, lost

    async def give(self, token: bytes) -> None:
        """The lease is ours now."""
        await self._store.commit([Batch([Put(_KEY, token)])])
        self.won["r0"] = token


class Router:
    """One of several, with one replica in row 0; it is its own listener."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.observed = Observed()
        health = Health(clock)
        self.following = Following(store, health, clock, 0.0)
        self.leases = Given(store)
        self.observing = Observing(
            store,
            self.observed,
            self.following,
            self.leases,
            self,
            health,
            clock,
            namespace="kvroute",
            flush_seconds=0.0,
            lease_seconds=1.0,
        )
        self.progress: Progress | None = None
        self.source: Source | None = None
        self.heard: list[Change] = []
        self.observing.joined("r0", 0, 16)

    def ingest(self, replica: str, progress: Progress | None) -> None:
        self.progress = progress

    def sourced(self, replica: str, source: Source) -> None:
        self.source = source

    def changed(self, replica: str, changes: Sequence[Change]) -> None:
        self.heard += changes

    async def turn(self) -> None:
        """Everything that happens in the background, once."""
        await self.observing.hold()
        await self.observing.look()
        while await self.observing.flush():
            pass
        await self.observing.look()
        await self.following.catch_up()

    def engine(self, sequence: int, *changes: Change) -> None:
        """A batch of events came to the router that follows them."""
        changing.apply(self.observed, 0, changes)
        self.observing.record("r0", changes, Progress(sequence + 1, float(sequence), Source.EXACT))


def stored(*keys: int) -> Stored:
    words = np.array(keys, np.uint64)
    return Stored(0, words + 1000, words)


def removed(*keys: int) -> Removed:
    return Removed(0, np.array(keys, np.uint64) + 1000)


def known(router: Router) -> set[int]:
    return {key for key in range(100) if router.observed.holders(key)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_what_one_router_observes_the_others_know(clock: Clock) -> None:
    """Also one that comes later; and how far it may be believed."""
    store = MemoryStore(clock)
    one, other = Router(store, clock), Router(store, clock)
    await one.leases.give(b"one")
    await one.turn()
    await other.turn()
    assert one.progress == Progress()
    one.engine(0, stored(1, 2, 3))
    one.engine(1, removed(3), stored(4))
    await one.turn()
    await other.turn()
    assert known(other) == {1, 2, 4}
    assert other.source is Source.EXACT
    late = Router(store, clock)
    await late.turn()
    assert known(late) == {1, 2, 4}
    one.engine(2, stored(9))
    await one.turn()
    for router in (other, late):
        await router.turn()
        assert known(router) == {1, 2, 4, 9}
        assert isinstance(router.heard[-1], Stored)


async def test_a_lease_that_moves_takes_the_progress_along(clock: Clock) -> None:
    """The next writer goes on with the engine's events where the log ends; the last one follows."""
    store = MemoryStore(clock)
    one, other = Router(store, clock), Router(store, clock)
    await one.leases.give(b"one")
    await one.turn()
    one.engine(0, stored(1, 2))
    await one.turn()
    await other.turn()
    one.engine(1, stored(3))  # observed, and not told before the lease is gone
    await other.leases.give(b"other")
    one.leases.lost.append("r0")
    await other.turn()
    await one.turn()
    assert (one.progress, other.progress) == (None, Progress(1, 0.0, Source.EXACT))
    other.engine(1, stored(3))
    other.engine(2, stored(4))
    await other.turn()
    await one.turn()
    assert known(one) == known(other) == {1, 2, 3, 4}
    assert one.source is Source.EXACT


async def test_a_flushed_store_is_filled_again(clock: Clock) -> None:
    """The writer sees that its log is gone and tells all anew; followers keep what they know until then."""
    store = MemoryStore(clock)
    one, other = Router(store, clock), Router(store, clock)
    await one.leases.give(b"one")
    for sequence in range(5):
        await one.turn()
        one.engine(sequence, stored(sequence))
    await one.turn()
    await other.turn()
    store.flush()
    await store.commit([Batch([Put(_KEY, b"one")])])
    await other.turn()
    assert known(other) == {0, 1, 2, 3, 4}
    one.engine(5, stored(5))
    clock.now += 2.0
    await one.turn()
    await one.turn()
    await other.turn()
    await other.turn()
    assert known(other) == {0, 1, 2, 3, 4, 5}
    assert other.source is Source.EXACT


async def test_a_replica_that_left_is_followed_no_more(clock: Clock) -> None:
    """Its events are no longer subscribed to, and its lease is given back."""
    store = MemoryStore(clock)
    one = Router(store, clock)
    await one.leases.give(b"one")
    await one.turn()
    assert one.observing.mine("r0")
    one.observing.left("r0")
    assert one.progress is None
    assert not one.leases.wanted
    one.engine(0, stored(1))  # a batch that was on its way
    await one.turn()
    assert len(one.following) == 0
