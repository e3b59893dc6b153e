"""Observed logs of several routers: one writes what it is told by the engine, the others know it too, and take over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import msgspec
import numpy as np
import pytest

from kvroute.router.core import changes as changing
from kvroute.router.core.changes import Change, Cleared, Removed, Stored
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.following import Following
from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.ingest_lease import IngestLeases
from kvroute.router.knowledge.sharing.memory_store import MemoryStore
from kvroute.router.knowledge.sharing.observed_log import Head, LogNames, Progress
from kvroute.router.knowledge.sharing.observing import Observing
from kvroute.router.knowledge.sharing.store import Batch, EntryId, Put, Store, StoreDown, Trouble
from tests.router.core.deciding import world
from tests.router.knowledge.sharing.routers import Clock


class Router:
    """One of several, with replica r0 in row 0; it is its own listener."""

    def __init__(self, store: Store, clock: Clock, name: str, live: set[str]) -> None:
        """`live` are the names of all."""
        live.add(name)
        self.clock = clock
        self.deciding = world(2)
        self.observed = self.deciding.index.observed
        self.life = 0.0
        self.health = health = Health(clock)
        self.following = Following(store, health, clock, 0.0)
        self.leases = IngestLeases(store, name, clock)
        self.observing = Observing(
            store,
            self.observed,
            self.following,
            self.leases,
            lambda: live,
            self,
            health,
            clock,
            namespace="kvroute",
            flush_seconds=0.0,
            alone_seconds=3.0,
            life=lambda _: self.life,
        )
        self.progress: Progress | None = None
        self.source: Source | None = None
        self.heard: list[Change] = []
        self.doubts = 0
        self.observing.joined("r0", 0, 16)

    def ingest(self, replica: str, progress: Progress | None) -> None:
        if replica == "r0":
            self.progress = progress

    def sourced(self, replica: str, source: Source) -> None:
        if replica == "r0":
            self.source = source

    def changed(self, replica: str, changes: Sequence[Change]) -> None:
        self.heard += changes

    def doubted(self, replica: str) -> None:
        self.doubts += 1
        changing.apply(self.observed, 0, (Cleared(),))
        assert self.progress is not None
        self.observing.record(replica, (Cleared(),), msgspec.structs.replace(self.progress, source=Source.RECOVERING))

    async def turn(self, *, hold: bool = True) -> None:
        """Everything that happens in the background, once."""
        if hold:
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


async def writing(store: MemoryStore, clock: Clock, live: set[str]) -> Router:
    """A router alone, which has won the lease."""
    router = Router(store, clock, "one", live)
    await router.turn()
    assert router.progress == Progress()
    return router


async def test_what_one_router_observes_the_others_know(clock: Clock) -> None:
    """Also one that comes later; and how far it may be believed."""
    store, live = MemoryStore(clock), set[str]()
    one = await writing(store, clock, live)
    other = Router(store, clock, "other", live)
    await other.turn()
    one.engine(0, stored(1, 2, 3))
    one.engine(1, removed(3), stored(4))
    await one.turn()
    await other.turn()
    assert known(other) == {1, 2, 4}
    assert other.source is Source.EXACT
    late = Router(store, clock, "late", live)
    await late.turn()
    assert known(late) == {1, 2, 4}
    one.engine(2, stored(9))
    await one.turn()
    for router in (other, late):
        await router.turn()
        assert known(router) == {1, 2, 4, 9}
        assert isinstance(router.heard[-1], Stored)


async def test_a_dead_writers_lease_passes_on(clock: Clock) -> None:
    """Within the lease's time another goes on with the engine's events where the log ends; should the first one be
    alive after all, it follows."""
    store, live = MemoryStore(clock), set[str]()
    one = await writing(store, clock, live)
    other = Router(store, clock, "other", live)
    one.engine(0, stored(1, 2))
    await one.turn()
    await other.turn()
    one.engine(1, stored(3))  # observed, and not told before the lease is gone
    clock.now += 3.5
    for _ in range(2):
        await other.turn()
    assert other.progress == Progress(1, 0.0, Source.EXACT)
    other.engine(1, stored(3))
    other.engine(2, stored(4))
    await other.turn()
    await one.turn()
    assert one.progress is None
    assert known(one) == known(other) == {1, 2, 3, 4}
    assert one.source is Source.EXACT


async def test_a_router_that_ends_hands_its_logs_on(clock: Clock) -> None:
    """All that it has observed is told, and its lease is free at once."""
    store, live = MemoryStore(clock), set[str]()
    one = await writing(store, clock, live)
    other = Router(store, clock, "other", live)
    await other.turn()
    one.engine(0, stored(1, 2))
    await one.observing.stop()
    assert one.progress is None
    for _ in range(2):
        await other.turn()
    assert other.progress == Progress(1, 0.0, Source.EXACT)
    assert known(other) == {1, 2}


async def test_a_flushed_store_is_filled_again(clock: Clock) -> None:
    """The lease is gone with the log: who wins it tells all anew; followers keep what they know until then."""
    store, live = MemoryStore(clock), set[str]()
    one = await writing(store, clock, live)
    other = Router(store, clock, "other", live)
    for sequence in range(5):
        one.engine(sequence, stored(sequence))
        await one.turn()
    await other.turn()
    store.flush()
    await other.turn(hold=False)
    assert known(other) == {0, 1, 2, 3, 4}
    one.engine(5, stored(5))
    for _ in range(6):
        clock.now += 1.0
        for router in (one, other):
            await router.turn()
    (writer,) = [router for router in (one, other) if router.observing.mine("r0")]
    assert writer.progress is not None
    for sequence in range(writer.progress.next, 7):
        writer.engine(sequence, stored(sequence))
    await writer.turn()
    for router in (one, other):
        await router.turn()
        assert known(router) >= {5, 6}
    assert known(one) == known(other)


async def test_a_replica_that_left_is_followed_no_more(clock: Clock) -> None:
    """Its events are no longer subscribed to, and its lease is given back; should it come back, all begins anew."""
    store, live = MemoryStore(clock), set[str]()
    one = await writing(store, clock, live)
    assert one.observing.mine("r0")
    one.observing.left("r0")
    assert one.progress is None
    one.engine(0, stored(1))  # a batch that was on its way
    await one.turn()
    assert (len(one.following), len(one.leases.held)) == (0, 0)
    one.observing.joined("r0", 0, 16)
    await one.turn()
    assert one.observing.mine("r0")


class Away:
    """A store that can be taken away."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.away = False
        self.between: Callable[[], object] = lambda: None
        """Called before every call."""

    def __getattr__(self, name: str) -> object:
        self.between()
        if self.away and name != "together":
            raise StoreDown(Trouble.UNREACHABLE, name)
        return getattr(self._store, name)


async def test_without_a_store_every_router_listens_itself(clock: Clock) -> None:
    """Knowledge stays exact while the store is away, from where it was; then one writes again and the other follows."""
    memory, live = MemoryStore(clock), set[str]()
    store = Away(memory)
    one = Router(cast("Store", store), clock, "one", live)
    await one.turn()
    other = Router(cast("Store", store), clock, "other", live)
    one.engine(0, stored(1))
    await one.turn()
    await other.turn()
    store.away = True
    for seconds in (0.5, 1.0, 2.5):
        clock.now += seconds
        for router in (one, other):
            with pytest.raises(StoreDown):
                await router.observing.hold()
            router.health.failed("holding ingest leases", StoreDown(Trouble.UNREACHABLE, "hold"))
            router.observing.watch()
        assert (other.progress is not None) is (seconds > 2.0)
    assert other.progress == Progress(1, 0.0, Source.EXACT)
    for router in (one, other):
        router.engine(1, stored(2))
        assert known(router) == {1, 2}
    store.away = False
    memory.flush()
    for _ in range(4):
        clock.now += 1.0
        for router in (one, other):
            await router.turn()
            router.observing.watch()
    assert one.observing.mine("r0") is not other.observing.mine("r0")
    writer, follower = (one, other) if one.observing.mine("r0") else (other, one)
    assert writer.progress == Progress(2, 1.0, Source.EXACT)
    assert follower.progress is None
    writer.engine(2, stored(3))
    await writer.turn()
    await follower.turn()
    assert known(one) == known(other) == {1, 2, 3}


@pytest.mark.parametrize("tip", [b"2|another version's", b"g:99999999999999999999-0", b"g:-1-0", b"\xff"])
async def test_a_tip_that_nobody_can_read(clock: Clock, tip: bytes) -> None:
    """Others' logs are read all the same, it is counted, and whoever wins the lease begins that log anew."""
    store, live = MemoryStore(clock), set[str]()
    names = LogNames("kvroute", "r0")
    head = Head(1, "g", 1, 0, 0, 0, 0, 0, 0.0, Source.EXACT, 16)
    await store.commit([Batch([Put(names.tip, tip), Put(names.snapshot, head.encode())])])
    one = Router(store, clock, "one", live)
    other = Router(store, clock, "other", live)
    for router in (one, other):
        router.observing.joined("r1", 1, 16)
    await one.observing.look()
    assert one.observing.unreadable == 1
    assert one.observing.ready.is_set()
    assert len(one.following) == 0
    for _ in range(3):
        await one.turn()
    assert one.observing.mine("r0")
    one.engine(0, stored(1, 2))
    await one.turn()
    await other.turn()
    assert known(other) == {1, 2}
    assert other.source is Source.EXACT


async def test_a_lease_that_is_not_made_use_of(clock: Clock) -> None:
    """It is given back after a while: another router may have more luck."""
    store, live = MemoryStore(clock), set[str]()
    one = Router(store, clock, "one", live)
    await one.observing.hold()
    await one.observing.hold()
    assert list(one.leases.held) == ["r0"]
    for _ in range(10):
        clock.now += 1.0
        assert one.leases.held
        await one.observing.hold()
    assert not one.leases.held


async def test_a_restart_that_a_follower_sees_itself(clock: Clock) -> None:
    """Whether before or after the log tells of it: what the row holds is what the log says."""
    store, live = MemoryStore(clock), set[str]()
    one = await writing(store, clock, live)
    other = Router(store, clock, "other", live)
    one.engine(0, stored(1, 2))
    await one.turn()
    await other.turn()
    for late in (False, True):
        for step in range(2):
            if step == late:
                (replica, _) = other.deciding.fleet
                other.deciding.drop(replica)
                other.observing.restarted("r0")
            else:
                one.engine(0, Cleared(), stored(5, 6, 7))
                await one.turn()
                await other.turn()
        one.engine(1, stored(8))
        await one.turn()
        await other.turn()
        assert known(other) == known(one) == {5, 6, 7, 8}
        assert other.source is Source.EXACT


@pytest.mark.parametrize("life_known", [True, False])
async def test_a_writer_that_dies_along_with_its_engine(clock: Clock, life_known: bool) -> None:
    """The next one knows that what the log tells is of an earlier engine, whatever the new one's numbers are."""
    store, live = MemoryStore(clock), set[str]()
    one = await writing(store, clock, live)
    other = Router(store, clock, "other", live)
    third = Router(store, clock, "third", live)
    one.engine(0, stored(1))
    one.engine(7, stored(2))
    await one.turn()
    for router in (other, third):
        await router.turn()
    assert known(third) == {1, 2}
    other.observing.restarted("r0")
    if life_known:
        other.life = 100.0
    clock.now += 3.5
    for _ in range(2):
        await other.turn()
    assert other.progress == Progress()
    assert isinstance(other.heard[-1], Cleared)
    other.engine(0, stored(3))
    await other.turn()
    await third.turn()
    assert known(other) == known(third) == {3}
    other.engine(200, stored(4))
    await other.turn()
    clock.now += 3.5
    third.life = other.life
    for _ in range(2):
        await third.turn()
    assert third.progress == Progress(201, 200.0, Source.EXACT)
    assert known(third) == {3, 4}


async def test_what_comes_late_changes_no_row_of_another_replica(clock: Clock) -> None:
    """A replica leaves while its snapshot, or an entry, is being read; its row is the next replica's."""
    store, live = MemoryStore(clock), set[str]()
    one = await writing(store, clock, live)
    one.engine(0, stored(1, 2))
    await one.turn()
    other = Router(store, clock, "other", live)
    (line,) = other.observing._lines.values()
    reading = Away(store)
    reading.between = lambda: other.observing.left("r0")
    await line.follower.load(cast("Store", reading))
    await line.entries(await store.span(line.key, EntryId(), EntryId(1 << 60, 0), 10))
    assert known(other) == set()


async def test_a_replica_that_cannot_be_subscribed_to(clock: Clock) -> None:
    """It leaves just when all events are to be followed: the others are."""
    live = set[str]()
    router = Router(MemoryStore(clock), clock, "one", live)
    for row, name in enumerate(("r1", "r2"), 1):
        router.observing.joined(name, row, 16)
    begun: list[str] = []

    def ingest(replica: str, progress: Progress | None) -> None:
        if progress is not None:
            begun.append(replica)
            if replica != "r2":
                router.observing.left(replica)

    router.ingest = ingest  # type: ignore[method-assign]
    router.health.failed("any work", StoreDown(Trouble.UNREACHABLE, "test"))
    clock.now += 5.0
    router.observing.watch()
    assert begun == ["r0", "r1", "r2"]


async def test_a_cache_that_followers_find_empty(clock: Clock) -> None:
    """The router that follows the events hears of it, once; until it has cleared what is known, that is in doubt."""
    store, live = MemoryStore(clock), set[str]()
    one = await writing(store, clock, live)
    others = [Router(store, clock, name, live) for name in ("other", "third")]
    one.engine(0, stored(1, 2))
    await one.turn()
    assert not one.observing.doubt("r0")
    for other in others:
        await other.turn()
        assert other.observing.doubt("r0")
        assert other.source is Source.RECOVERING
        await other.turn()
    for _ in range(3):
        clock.now += 1.0
        await one.turn()
        one.engine(1, stored(3))
        await one.turn()
        for other in others:
            await other.turn()
            assert other.source is Source.EXACT
            assert known(other) == {3}
    assert one.doubts == 1


async def test_a_doubt_that_nobody_hears(clock: Clock) -> None:
    """The writer is dead: whoever takes its place acts on it."""
    store, live = MemoryStore(clock), set[str]()
    one = await writing(store, clock, live)
    other = Router(store, clock, "other", live)
    one.engine(0, stored(1, 2))
    await one.turn()
    await other.turn()
    assert other.observing.doubt("r0")
    clock.now += 10.0
    for _ in range(2):
        await other.turn()
    assert other.observing.mine("r0")
    assert (other.doubts, known(other)) == (1, set())
