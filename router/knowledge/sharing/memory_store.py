"""The store within one process: what a router without Redis uses, with Redis' own rules of ids, trimming and expiry."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from kvroute.router.knowledge.sharing.store import (
    About,
    Append,
    Batch,
    Drop,
    Ends,
    Entry,
    EntryId,
    Expire,
    Outcome,
    Put,
    StoreDown,
    Trim,
    Trouble,
    Write,
)


class _Stream:
    """Entries, oldest first, and the last id that there ever was."""

    __slots__ = ("entries", "last")

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.last = EntryId()

    def after(self, id: EntryId, count: int) -> list[Entry]:
        """The first `count` entries with greater ids. Followers are near the end, so it looks from there."""
        found: list[Entry] = []
        for entry in reversed(self.entries):
            if entry.id <= id:
                break
            found.append(entry)
        found.reverse()
        return found[:count]

    def trim(self, longest: int | None, since: EntryId | None) -> None:
        entries = self.entries
        while entries and longest is not None and len(entries) > longest:
            entries.popleft()
        while entries and since is not None and entries[0].id < since:
            entries.popleft()


class MemoryStore:
    """A `Store`. `clock` is the time of day [s since 1970]; waiting reads wait in real time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[str, bytes | _Stream] = {}
        self._ends: dict[str, float] = {}
        """When a key expires [s], where it does."""
        self._news = asyncio.Event()
        """Replaced at each append, so that whoever waits is woken once."""

    async def commit(self, batches: Sequence[Batch]) -> list[Outcome]:
        return [self._carry_out(batch) for batch in batches]

    def _carry_out(self, batch: Batch) -> Outcome:
        if any(self._value(key) != value for key, value in batch.given.items()):
            return Outcome.GIVEN
        for write in batch.writes:
            if isinstance(write, Append) and write.id is not None and write.id <= self._last(write.key):
                return Outcome.STALE
        for write in batch.writes:
            self._write(write)
        return Outcome.DONE

    def _write(self, write: Write) -> None:
        if isinstance(write, Append):
            self._append(write)
        elif isinstance(write, Trim):
            if stream := self._stream(write.key):
                stream.trim(None, write.since)
        elif isinstance(write, Put):
            self.forget(write.key)
            self._values[write.key] = write.value
            if write.ttl_ms is not None:
                self._ends[write.key] = self._clock() + write.ttl_ms / 1000
        elif isinstance(write, Expire):
            if self._held(write.key) is not None:
                self._ends[write.key] = self._clock() + write.ttl_ms / 1000
        elif isinstance(write, Drop):
            self.forget(write.key)
        else:
            assert_never(write)

    def _append(self, write: Append) -> None:
        stream = self._stream(write.key)
        if stream is None:
            stream = self._values[write.key] = _Stream()
        stream.last = write.id or self._next(stream.last)
        stream.entries.append(Entry(stream.last, dict(write.fields)))
        stream.trim(write.longest, write.since)
        self._news.set()
        self._news = asyncio.Event()

    def _next(self, last: EntryId) -> EntryId:
        now = int(self._clock() * 1000)
        return EntryId(now, 0) if now > last.epoch else EntryId(last.epoch, last.n + 1)

    def forget(self, key: str) -> None:
        """The key is gone, as if it had been evicted."""
        self._values.pop(key, None)
        self._ends.pop(key, None)

    def flush(self) -> None:
        """Every key is gone."""
        self._values.clear()
        self._ends.clear()

    def saved(self) -> tuple[dict[str, bytes | _Stream], dict[str, float]]:
        """All that it holds, for `restored`."""
        return self._values, self._ends

    def restored(self, saved: tuple[dict[str, bytes | _Stream], dict[str, float]]) -> None:
        """It holds this, and nothing else: as a server that comes back with an old copy of its data."""
        self._values, self._ends = saved

    def _held(self, key: str) -> bytes | _Stream | None:
        if key in self._ends and self._ends[key] <= self._clock():
            self.forget(key)
        return self._values.get(key)

    def _value(self, key: str) -> bytes | None:
        held = self._held(key)
        if isinstance(held, _Stream):
            raise StoreDown(Trouble.WRONG, "a Stream where a value was looked for")
        return held

    def _stream(self, key: str) -> _Stream | None:
        held = self._held(key)
        if isinstance(held, bytes):
            raise StoreDown(Trouble.WRONG, "a value where a Stream was looked for")
        return held

    def _last(self, key: str) -> EntryId:
        stream = self._stream(key)
        return stream.last if stream else EntryId()

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._value(key) for key in keys]

    def together(self, keys: Sequence[str]) -> list[list[str]]:
        return [list(keys)] if keys else []

    async def read(self, after: Mapping[str, EntryId], *, block_ms: int, count: int) -> dict[str, list[Entry]]:
        if (found := self._after(after, count)) or not block_ms:
            return found
        try:
            async with asyncio.timeout(block_ms / 1000):
                while not (found := self._after(after, count)):
                    await self._news.wait()
        except TimeoutError:
            return {}
        return found

    def _after(self, after: Mapping[str, EntryId], count: int) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for key, id in after.items():
            stream = self._stream(key)
            if stream is not None and stream.last > id and (entries := stream.after(id, count)):
                found[key] = entries
        return found

    async def span(self, key: str, first: EntryId, last: EntryId, count: int) -> list[Entry]:
        stream = self._stream(key)
        return [entry for entry in stream.entries if first <= entry.id <= last][:count] if stream else []

    async def ends(self, keys: Sequence[str]) -> list[Ends]:
        found: list[Ends] = []
        for key in keys:
            stream = self._stream(key) or _Stream()
            first = stream.entries[0].id if stream.entries else EntryId()
            found.append(Ends(first, stream.last, len(stream.entries)))
        return found

    async def time_ms(self, key: str) -> int:
        return int(self._clock() * 1000)

    async def scan(self, prefix: str) -> list[str]:
        return [key for key in list(self._values) if key.startswith(prefix) and self._held(key) is not None]

    async def about(self) -> About:
        return About("memory", "", "memory", 0, 0, False)

    async def close(self) -> None:
        pass
