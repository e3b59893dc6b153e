"""The observed log, step by step in memory: what is accepted, what is refused, what is read again."""

from __future__ import annotations

import asyncio
import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.core import changes as changing
from kvroute.router.core.changes import Change, Medium, Removed, Stored
from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.memory_store import MemoryStore
from kvroute.router.knowledge.sharing.observed_follower import ObservedFollower
from kvroute.router.knowledge.sharing.observed_log import (
    CHANGES,
    FOLLOWS,
    Head,
    LogNames,
    Progress,
    Tip,
    Unreadable,
    pack_entry,
    unpack_entry,
)
from kvroute.router.knowledge.sharing.observed_writer import ObservedWriter, WriterSettings
from kvroute.router.knowledge.sharing.observed_writers import ObservedWriters
from kvroute.router.knowledge.sharing.store import Append, Batch, EntryId, Outcome, Put
from tests.router.knowledge.sharing.schedule import plain

NAMES = LogNames("test", "a")


class Pair:
    """A writer and a follower over one store in memory."""

    def __init__(self, settings: WriterSettings | None = None) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)
        self.settings = settings or WriterSettings()
        self.count = 0
        self.writing = ObservedFollower(NAMES, Observed(), 0, 16)
        self.following = ObservedFollower(NAMES, Observed(), 5, 16)
        self.writers = ObservedWriters(self.store, lambda: self.now, self.settings)

    @property
    def writer(self) -> ObservedWriter:
        return self.writers["a"]

    async def begin(self, token: bytes = b"one") -> None:
        await self.store.commit([Batch([Put(NAMES.ingest, token)])])
        await self.writing.load(self.store)
        self.writers.begin("a", self.writing, token)
        await self.flush()

    async def flush(self) -> None:
        while not self.writers.idle:
            await self.writers.flush()

    def say(self, *changes: Change, source: Source = Source.EXACT) -> None:
        changing.apply(self.writing.observed, 0, changes)
        self.count += 1
        self.writer.record(changes, Progress(self.count, 0.0, source))

    async def read(self) -> bool:
        found = await self.store.read({NAMES.observed: self.following.after}, block_ms=0, count=999)
        return self.following.take(found.get(NAMES.observed, []))

    def same(self) -> bool:
        return plain(self.writing.observed, 0) == plain(self.following.observed, 5)


def stored(first: int, count: int = 4) -> Stored:
    hashes = np.arange(first, first + count, dtype=np.uint64)
    return Stored(Medium.GPU, hashes, hashes + np.uint64(1_000_000))


def removed(first: int, count: int = 4) -> Removed:
    return Removed(Medium.GPU, np.arange(first, first + count, dtype=np.uint64))


async def test_following() -> None:
    """A follower that starts with the snapshot and takes in each entry once knows what the writer does."""
    pair = Pair()
    await pair.begin()
    assert await pair.following.load(pair.store)
    for first in range(8, 48, 4):
        pair.say(stored(first), removed(first - 8))
        await pair.flush()
        assert await pair.read()
        assert await pair.read()
        assert pair.same()
    assert pair.following.progress == Progress(10, 0.0, Source.EXACT)
    assert pair.following.source is Source.EXACT
    assert (pair.following.loads, pair.following.gaps) == (1, 0)


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_large_snapshot_is_taken_in_little_by_little(leaves: bool) -> None:
    """Others have their turn meanwhile, and see what the row held before, until they see all; or nothing, should the
    replica leave."""
    pair = Pair()
    await pair.begin()
    pair.say(stored(200_000, 10))
    await pair.flush()
    await pair.following.load(pair.store)
    pair.say(stored(0, 100_000))
    await pair.flush()
    seen: list[int] = []
    loading = asyncio.create_task(pair.following.load(pair.store))
    while not loading.done():
        await asyncio.sleep(0)
        seen.append(pair.following.observed.blocks(5))
        if leaves and len(seen) == 3:
            pair.following.writing = True
    assert seen[:3] == [10, 10, 10]
    assert set(seen) == ({10} if leaves else {10, 100_010})
    assert pair.same() is not leaves
    while pair.following.observed.sweep():
        pass
    assert len(pair.following.observed) == (10 if leaves else 100_010)


async def test_entries_gather() -> None:
    """What is said between two flushes is one entry, in order; ids are contiguous from 1 in the writer's epoch."""
    pair = Pair()
    await pair.begin()
    for first in range(0, 400, 4):
        pair.say(stored(first))
    await pair.flush()
    pair.say(removed(0))
    await pair.flush()
    found = await pair.store.span(NAMES.observed, EntryId(), EntryId(2**60, 0), 99)
    assert [id.n for id, _ in found] == [1, 2]
    assert {id.epoch for id, _ in found} == {found[0].id.epoch}
    assert found[0].id.epoch >= 1_000_000


async def test_a_trimmed_log() -> None:
    """A follower that was away while its entries were trimmed reads the snapshot, and is then in step again."""
    pair = Pair(WriterSettings(least_tail=400, entry_bytes=50, grace=1.0))
    await pair.begin()
    await pair.following.load(pair.store)
    for first in range(0, 400, 4):
        pair.say(stored(first))
        await pair.flush()
        pair.now += 0.5
    assert (await pair.store.ends([NAMES.observed]))[0].first.n > 50
    assert not await pair.read()
    assert not pair.following.synced
    assert plain(pair.following.observed, 5) == {}
    assert await pair.following.load(pair.store)
    assert pair.same()
    assert pair.following.loads == 2


async def test_an_old_writer_is_refused() -> None:
    """A writer whose lease went to another writes nothing more, whatever it still sends, and finds out."""
    pair = Pair()
    await pair.begin()
    pair.say(stored(0))
    old = pair.writer.batch(pair.now)
    assert old is not None
    await pair.store.commit([Batch([Put(NAMES.ingest, b"two")])])
    pair.writer.settle((await pair.store.commit([old]))[0], pair.now)
    await pair.writers.flush()
    assert pair.writers.lost == ["a"]
    assert (await pair.store.ends([NAMES.observed]))[0].length == 0
    pair.writers.end("a")
    assert not pair.writing.synced


async def test_an_answer_that_was_lost() -> None:
    """An entry that was accepted without the writer hearing of it is there once."""
    pair = Pair()
    await pair.begin()
    await pair.following.load(pair.store)
    pair.say(stored(0))
    sent = pair.writer.batch(pair.now)
    assert sent is not None
    await pair.store.commit([sent])
    pair.writer.failed()
    pair.say(stored(0))
    await pair.flush()
    await pair.store.commit([sent])
    assert await pair.read()
    assert pair.same()
    assert [id.n for id, _ in await pair.store.span(NAMES.observed, EntryId(), EntryId(2**60, 0), 9)] == [1, 2]


async def test_an_old_copy_of_the_data() -> None:
    """A server that comes back without the last entries takes nothing from the writer that would leave a hole: the
    writer begins a new generation, and followers that were ahead read it."""
    pair = Pair()
    await pair.begin()
    await pair.following.load(pair.store)
    pair.say(stored(0))
    await pair.flush()
    old = copy.deepcopy(pair.store.saved())
    pair.say(stored(100))
    await pair.flush()
    await pair.read()
    pair.store.restored(old)
    pair.say(stored(200))
    sent = pair.writer.batch(pair.now)
    assert sent is not None
    assert await pair.store.commit([sent]) == [Outcome.GIVEN]
    pair.writer.failed()
    await pair.flush()
    assert pair.writer.generations == 2
    (tip,) = await pair.store.get([NAMES.tip])
    pair.following.check(tip)
    assert not pair.following.synced
    assert await pair.following.load(pair.store)
    assert pair.same()


async def test_a_late_generation() -> None:
    """A generation's beginning that was given up and reaches the server late, after others, changes nothing."""
    pair = Pair()
    await pair.begin()
    pair.store.flush()
    await pair.store.commit([Batch([Put(NAMES.ingest, b"one")])])
    await pair.writers.inspect()
    pair.say(stored(0))
    late: list[Batch] = []
    while pair.writer.generations < 2:
        await pair.writers._resolve()
        batch = pair.writer.batch(pair.now)
        assert batch is not None
        late.append(batch)
        pair.writer.settle((await pair.store.commit([batch]))[0], pair.now)
    pair.say(stored(50))
    await pair.flush()
    tip = await pair.store.get([NAMES.tip])
    for batch in late:
        await pair.store.commit([batch])
    assert await pair.store.get([NAMES.tip]) == tip
    assert await pair.following.load(pair.store)
    assert pair.same()


async def test_taking_over_without_a_snapshot() -> None:
    """The next writer goes on from the log's tip: an epoch of its own, no new snapshot, and followers stay in step."""
    pair = Pair()
    await pair.begin()
    await pair.following.load(pair.store)
    pair.say(stored(0))
    await pair.flush()
    assert await pair.read()
    await pair.store.commit([Batch([Put(NAMES.ingest, b"two")])])
    await pair.following.load(pair.store)
    second = ObservedWriters(pair.store, lambda: pair.now)
    writer = second.begin("a", pair.following, b"two")
    assert writer.progress.next == 1
    changing.apply(pair.following.observed, 5, (removed(0, 2),))
    writer.record((removed(0, 2),), Progress(2, 0.0, Source.EXACT))
    while not second.idle:
        await second.flush()
    assert (writer.generations, writer.snapshots) == (0, 0)
    pair.writers.end("a")
    assert pair.writing.synced
    found = await pair.store.read({NAMES.observed: pair.writing.after}, block_ms=0, count=9)
    assert pair.writing.take(found[NAMES.observed])
    assert pair.same()
    assert found[NAMES.observed][0].id.epoch > EntryId(1_000_000).epoch


async def test_flushed() -> None:
    """After a flush the writer begins a new generation from what it knows; a follower keeps what it knew, says that it
    is not sure of it, and reads the new snapshot."""
    pair = Pair()
    await pair.begin()
    await pair.following.load(pair.store)
    pair.say(stored(0))
    await pair.flush()
    await pair.read()
    pair.store.flush()
    pair.following.check(None)
    assert pair.following.source is Source.RECOVERING
    assert not await pair.following.load(pair.store)
    assert pair.same()
    await pair.store.commit([Batch([Put(NAMES.ingest, b"one")])])
    await pair.writers.inspect()
    pair.say(stored(100))
    await pair.flush()
    assert pair.writer.generations == 2
    assert await pair.following.load(pair.store)
    assert pair.same()
    assert pair.following.synced


async def test_a_huge_batch_and_a_long_absence() -> None:
    """What would be too large an entry, or too long a queue, is told by a snapshot in parts."""
    pair = Pair(WriterSettings(unit_bytes=10_000, backlog_bytes=50_000))
    await pair.begin()
    pair.say(stored(0, 70_000))
    await pair.flush()
    assert pair.writer.generations == 2
    for _ in range(500):
        pair.say(stored(0), removed(0), stored(0))
    assert pair.writer._queue.bytes < 1_200_000
    await pair.flush()
    assert await pair.following.load(pair.store)
    assert pair.same()
    assert pair.following.observed.blocks(5) == 70_000


async def test_the_source_travels() -> None:
    """Followers know whether the writer's knowledge is exact, without a change to carry it."""
    pair = Pair()
    await pair.begin()
    await pair.following.load(pair.store)
    pair.say(stored(0))
    pair.say(source=Source.RECOVERING)
    await pair.flush()
    await pair.read()
    assert pair.following.source is Source.RECOVERING
    for _ in range(255):
        pair.say(source=Source.RECOVERING)
    assert pair.writer.idle
    pair.say(source=Source.RECOVERING)
    assert not pair.writer.idle


async def test_keys_never_pile_up() -> None:
    """However much is said, the store keeps one snapshot and the entries since; all of it expires."""
    pair = Pair(WriterSettings(least_tail=2000, entry_bytes=200, grace=0.5))
    await pair.begin()
    for first in range(0, 12_000, 4):
        pair.say(stored(first % 400), removed((first - 200) % 400))
        await pair.flush()
        pair.now += 0.05
    assert pair.writer.snapshots > 50
    assert (await pair.store.ends([NAMES.observed]))[0].length < 60
    assert len(await pair.store.scan("")) <= 6
    pair.now += 3601.0
    assert await pair.store.scan("") == [NAMES.ingest]


@pytest.mark.parametrize("block_tokens", [16, 32])
async def test_what_is_not_ours(block_tokens: int) -> None:
    """A snapshot of another version, of other block sizes, or with parts that lie, is not believed; the row stays."""
    pair = Pair()
    await pair.begin()
    pair.say(stored(0))
    await pair.flush()
    (data,) = await pair.store.get([NAMES.snapshot])
    assert data is not None
    other = ObservedFollower(NAMES, Observed(), 1, block_tokens)
    if block_tokens == 16:
        await pair.store.commit([Batch([Put(NAMES.snapshot, data.replace(b"\xa7version\x01", b"\xa7version\x02"))])])
    assert not await other.load(pair.store)
    assert other.unreadable
    assert not other.synced
    for junk in (b"", b"\xff", data[:-1]):
        await pair.store.commit([Batch([Put(NAMES.snapshot, junk)])])
        assert not await other.load(pair.store)


async def test_entries_that_are_not_ours() -> None:
    """An entry that cannot be read, or follows something else, puts the follower out of step and changes nothing."""
    pair = Pair()
    await pair.begin()
    await pair.following.load(pair.store)
    position = pair.following.position
    assert position is not None
    for fields in (
        {CHANGES: b"junk", FOLLOWS: position.encode()},
        {CHANGES: pack_entry([stored(0)], Progress(), 0), FOLLOWS: b"else"},
        {CHANGES: pack_entry([stored(0)], Progress(), 0)},
    ):
        store = MemoryStore(lambda: pair.now)
        await store.commit([Batch([Append(NAMES.observed, fields, id=EntryId(position.at.epoch, 1))])])
        found = await store.read({NAMES.observed: EntryId()}, block_ms=0, count=9)
        assert not pair.following.take(found[NAMES.observed])
        assert pair.following.position == position
        assert plain(pair.following.observed, 5) == {}
        assert await pair.following.load(pair.store)


@given(st.binary(max_size=80))
def test_junk(data: bytes) -> None:
    """Whatever stands in the store, it is read or refused."""
    for read in (unpack_entry, Head.decode, Tip.decode):
        try:
            read(data)
        except Unreadable:
            continue


@pytest.mark.parametrize("parts", [-1, 1 << 40])
def test_a_snapshot_of_impossible_size(parts: int) -> None:
    """A head that lies about its parts is refused before anything is made of the number."""
    with pytest.raises(Unreadable, match="parts"):
        Head.decode(Head(1, "g", 1, 0, parts, 0, 0, 0, 0.0, Source.EXACT, 16).encode())
