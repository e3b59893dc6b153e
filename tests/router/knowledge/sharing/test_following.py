"""Following many Streams: each entry once, whoever reads; Streams may come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from kvroute.router.knowledge.sharing.following import COUNT, Following
from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.memory_store import MemoryStore
from kvroute.router.knowledge.sharing.store import Append, Batch, Entry, EntryId, Store
from tests.router.running import until


class Ear:
    """Notes what it hears."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.after = EntryId()
        self.heard: list[bytes] = []

    async def entries(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.after = entry.id
            self.heard.append(entry.fields[b"x"])
            await asyncio.sleep(0)


async def say(store: Store, key: str, *words: str) -> None:
    for word in words:
        await store.commit([Batch([Append(key, {b"x": word.encode()})])])


def following(store: Store) -> Following:
    return Following(store, Health(time.monotonic), time.monotonic, 0.001)


async def test_many_streams_are_read_together(store: Store) -> None:
    """From their beginning, all of them, also more than one read brings."""
    reader = following(store)
    ears = [Ear(f"{{t:{i}}}:s") for i in range(5)]
    for ear in ears:
        reader.follow(ear)
        await say(store, ear.key, *map(str, range(2 * COUNT + 3)))
    await reader.catch_up()
    assert all(ear.heard == [str(n).encode() for n in range(2 * COUNT + 3)] for ear in ears)


async def test_two_reads_at_once_bring_an_entry_once(store: Store) -> None:
    """What one read has brought meanwhile is left out of the other."""
    reader = following(store)
    ear = Ear("{t}:s")
    reader.follow(ear)
    await say(store, ear.key, "a", "b", "c")
    await asyncio.gather(reader.turn([ear.key], 0), reader.turn([ear.key], 0))
    assert sorted(ear.heard) == [b"a", b"b", b"c"]


async def test_streams_may_come_and_go_while_it_runs(store: Store) -> None:
    """One that is added is heard soon, one that is left no more."""
    reader = following(store)
    first, second = Ear("{t:1}:s"), Ear("{t:2}:s")
    reader.start()
    try:
        reader.follow(first)
        await say(store, first.key, "a")
        await until(lambda: first.heard == [b"a"])
        reader.follow(second)
        await say(store, second.key, "b")
        await until(lambda: second.heard == [b"b"])
        reader.leave(first.key)
        await asyncio.sleep(0.3)  # a read that waits for the old ones ends
        await say(store, first.key, "c")
        await say(store, second.key, "d")
        await until(lambda: second.heard == [b"b", b"d"])
        assert first.heard == [b"a"]
    finally:
        await reader.close()


async def test_a_store_without_anybody_to_follow_is_left_alone(store: MemoryStore) -> None:
    """No Streams, no reads."""
    reader = following(store)
    reader.start()
    await asyncio.sleep(0.01)
    assert await reader.catch_up() == 0
    await reader.close()
