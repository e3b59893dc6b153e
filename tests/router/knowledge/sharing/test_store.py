"""What holds for every store: ids, conditions, trimming, expiry. The memory store is held to what Redis does."""

from __future__ import annotations

import asyncio
import time

import pytest

from kvroute.router.knowledge.sharing.store import (
    Append,
    Batch,
    Drop,
    Ends,
    EntryId,
    Expire,
    Outcome,
    Put,
    Store,
    StoreDown,
    Trim,
    Trouble,
)

LOG = "{t}:log"
KEY = "{t}:key"


def entry(n: int, epoch: int = 7) -> Append:
    return Append(LOG, {b"n": b"%d" % n}, id=EntryId(epoch, n))


async def test_ids(store: Store) -> None:
    """An id that is not greater than the Stream's last is refused, and nothing of its batch is written."""
    assert await store.commit([Batch([entry(1)]), Batch([entry(3)])]) == [Outcome.DONE, Outcome.DONE]
    late = Batch([entry(2), Put(KEY, b"x")])
    again = Batch([entry(3)])
    older = Batch([entry(9, epoch=6)])
    assert await store.commit([late, again, older]) == [Outcome.STALE] * 3
    assert await store.get([KEY]) == [None]
    assert await store.ends([LOG, "{u}:none"]) == [Ends(EntryId(7, 1), EntryId(7, 3), 2), Ends(EntryId(), EntryId(), 0)]


async def test_made_ids_grow(store: Store) -> None:
    """Ids that the store makes grow within one millisecond and across them, near its own clock."""
    for _ in range(50):
        await store.commit([Batch([Append(LOG, {b"a": b"b"})])])
    found = await store.span(LOG, EntryId(), EntryId(2**62, 0), 100)
    ids = [id for id, _ in found]
    assert ids == sorted(set(ids))
    assert abs(ids[-1].epoch - await store.time_ms(LOG)) < 60_000


async def test_conditions(store: Store) -> None:
    """A batch happens only if each given key holds its value, or is absent where None is given."""
    assert await store.commit([Batch([Put(KEY, b"1")], given={KEY: None})]) == [Outcome.DONE]
    assert await store.commit([Batch([Put(KEY, b"2")], given={KEY: None})]) == [Outcome.GIVEN]
    assert await store.commit([Batch([Put(KEY, b"3")], given={KEY: b"2"})]) == [Outcome.GIVEN]
    assert await store.commit([Batch([Put(KEY, b"\x00-")], given={KEY: b"1"})]) == [Outcome.DONE]
    two = Batch([entry(1), Drop(KEY)], given={KEY: b"\x00-", "{t}:other": None})
    assert await store.commit([two, two]) == [Outcome.DONE, Outcome.GIVEN]
    assert await store.get([KEY, KEY]) == [None, None]


async def test_reading(store: Store) -> None:
    """A read gives what follows each id, oldest first, and leaves out Streams with nothing new."""
    await store.commit([Batch([entry(n)]) for n in range(1, 6)])
    other = "{t}:empty"
    found = await store.read({LOG: EntryId(7, 2), other: EntryId()}, block_ms=0, count=2)
    assert {key: [id.n for id, _ in entries] for key, entries in found.items()} == {LOG: [3, 4]}
    assert found[LOG][0].fields == {b"n": b"3"}
    assert await store.read({LOG: EntryId(7, 5)}, block_ms=0, count=2) == {}
    assert [id.n for id, _ in await store.span(LOG, EntryId(7, 2), EntryId(7, 4), 2)] == [2, 3]


async def test_waiting(store: Store) -> None:
    """A waiting read ends at the first entry, or empty when its time is over."""
    start = time.monotonic()
    assert await store.read({LOG: EntryId()}, block_ms=30, count=10) == {}
    assert time.monotonic() - start >= 0.025
    waiting = asyncio.create_task(store.read({LOG: EntryId()}, block_ms=20_000, count=10))
    await asyncio.sleep(0)
    await store.commit([Batch([entry(1)])])
    assert [id for id, _ in (await waiting)[LOG]] == [EntryId(7, 1)]
    assert time.monotonic() - start < 15


async def test_trimming(store: Store) -> None:
    """A Stream is kept to its newest entries, or from an id on; it remembers its last id even when it is empty."""
    await store.commit([Batch([entry(n)]) for n in range(1, 6)])
    await store.commit([Batch([Append(LOG, {b"n": b"6"}, id=EntryId(7, 6), longest=4)])])
    assert (await store.ends([LOG]))[0] == Ends(EntryId(7, 3), EntryId(7, 6), 4)
    await store.commit([Batch([Append(LOG, {b"n": b"7"}, id=EntryId(7, 7), since=EntryId(7, 5))])])
    assert (await store.ends([LOG]))[0] == Ends(EntryId(7, 5), EntryId(7, 7), 3)
    await store.commit([Batch([Trim(LOG, EntryId(8, 0)), Trim("{t}:none", EntryId(8, 0))])])
    assert (await store.ends([LOG]))[0] == Ends(EntryId(), EntryId(7, 7), 0)
    assert await store.commit([Batch([entry(7)])]) == [Outcome.STALE]
    await store.commit([Batch([Drop(LOG)])])
    assert await store.commit([Batch([entry(1)])]) == [Outcome.DONE]


async def test_expiry(store: Store) -> None:
    """Keys of either type expire; a new value, or a new expiry, replaces the old one."""
    await store.commit(
        [Batch([entry(1), Expire(LOG, 300), Put(KEY, b"1", ttl_ms=300), Put("{t}:long", b"2", ttl_ms=300)])]
    )
    await store.commit([Batch([Put("{t}:long", b"3"), Expire("{t}:none", 300)])])
    assert await store.get([KEY]) == [b"1"]
    deadline = time.monotonic() + 10
    while (await store.get([KEY]))[0] or (await store.ends([LOG]))[0].length:
        assert time.monotonic() < deadline
    assert await store.get(["{t}:long"]) == [b"3"]
    assert await store.read({LOG: EntryId()}, block_ms=0, count=1) == {}
    assert await store.commit([Batch([entry(1)], given={KEY: None})]) == [Outcome.DONE]


async def test_scanning(store: Store) -> None:
    """A scan finds every key with the prefix, whatever characters are in it, and no other."""
    await store.commit([Batch([Put(f"{{a[*]?:{i}}}:x", b"")]) for i in range(30)])
    await store.commit([Batch([Put("{ab?:1}:x", b"")])])
    assert sorted(await store.scan("{a[*]?:")) == sorted(f"{{a[*]?:{i}}}:x" for i in range(30))


async def test_wrong_types(store: Store) -> None:
    """A key of another type is an error that says so, and the store works on."""
    await store.commit([Batch([entry(1), Put(KEY, b"1")])])
    for call in (
        store.get([LOG]),
        store.commit([Batch([Put("{t}:x", b"")], given={LOG: b"1"})]),
        store.commit([Batch([Append(KEY, {b"a": b"b"})])]),
        store.read({KEY: EntryId()}, block_ms=0, count=1),
    ):
        with pytest.raises(StoreDown) as down:
            await call
        assert down.value.trouble is Trouble.WRONG
    assert await store.get([KEY]) == [b"1"]


async def test_binary(store: Store) -> None:
    """Values and fields are bytes, long ones too."""
    data = bytes(range(256)) * 2048
    await store.commit([Batch([Append(LOG, {b"\xff": data}, id=EntryId(1, 1)), Put(KEY, data)])])
    assert await store.get([KEY]) == [data]
    assert (await store.read({LOG: EntryId()}, block_ms=0, count=1))[LOG][0].fields == {b"\xff": data}


async def test_nothing(store: Store) -> None:
    """Empty calls are answered without one."""
    assert await store.commit([]) == []
    assert await store.get([]) == []
    assert await store.ends([]) == []
    assert store.together([]) == []


def test_explicit_ids_come_first() -> None:
    """A batch whose Append with an id is not its first write cannot be made: it could be half done."""
    with pytest.raises(ValueError, match="first"):
        Batch([Put(KEY, b""), entry(1)])
