"""Follows many Streams at once: one waiting read for each group that the store can wait for together."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.store import Entry, EntryId, Store, StoreDown

COUNT = 8
"""Entries of one Stream taken in one read: usually there are fewer, and what 64 Streams hold at most is bounded."""
_BLOCK_MS = 250
"""A waiting read comes back after so long, and then knows of Streams that were added meanwhile."""


class Follower(Protocol):
    """Wants to hear of one Stream's entries, in order, each once."""

    @property
    def key(self) -> str: ...

    @property
    def after(self) -> EntryId:
        """The last entry heard; the next read goes on behind it."""
        ...

    async def entries(self, entries: Sequence[Entry]) -> None:
        """Take these in, move `after` on, and give the event loop its turn in between.

        Raises:
            StoreDown: something else had to be read first, and could not be.
        """
        ...


class Following:
    """Reads for all followers. Entries that come in bursts are read together, at most one read a `pace`."""

    def __init__(
        self, store: Store, health: Health, clock: Callable[[], float], pace_seconds: float, count: int = COUNT
    ) -> None:
        self._store = store
        self._health = health
        self._clock = clock
        self._pace = pace_seconds
        self._count = count
        self._followers: dict[str, Follower] = {}
        self._handing: dict[str, asyncio.Lock] = {}
        self._groups: list[list[str]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._running = False

    def __len__(self) -> int:
        return len(self._followers)

    def follow(self, follower: Follower) -> None:
        """Read its Stream from now on."""
        if self._followers.get(follower.key) is not follower:
            self._followers[follower.key] = follower
            self._regroup()

    def leave(self, key: str) -> None:
        """Read it no more."""
        if self._followers.pop(key, None) is not None:
            self._handing.pop(key, None)
            self._regroup()

    def start(self) -> None:
        """Read in the background until `close`."""
        self._running = True
        self._regroup()

    async def close(self) -> None:
        """Stop reading."""
        self._running = False
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _regroup(self) -> None:
        self._groups = self._store.together(list(self._followers))
        if self._running:
            self._tasks = [task for task in self._tasks if not task.done()]
            for place in range(len(self._tasks), len(self._groups)):
                self._tasks.append(run_in_background(self._run(place), f"following {place}"))

    async def _run(self, place: int) -> None:
        """Read the group at this place, whichever it is just then."""
        while True:
            if place >= len(self._groups):
                await asyncio.sleep(_BLOCK_MS / 1000)
                continue
            began = self._clock()
            try:
                more = await self.turn(self._groups[place], _BLOCK_MS) >= self._count
            except StoreDown as error:
                await asyncio.sleep(self._health.failed("read", error))
                continue
            self._health.served("read")
            await asyncio.sleep(0.0 if more else max(0.0, began + self._pace - self._clock()))

    async def turn(self, keys: Sequence[str], block_ms: int) -> int:
        """One read of these Streams, and what comes of it; how many entries there were.

        Raises:
            StoreDown: the store did not serve.
        """
        after = {key: self._followers[key].after for key in keys if key in self._followers}
        found = await self._store.read(after, block_ms=block_ms, count=self._count)
        for key, entries in found.items():
            follower = self._followers.get(key)
            if follower is not None:
                await self._hand(follower, entries)
        return sum(map(len, found.values()))

    async def _hand(self, follower: Follower, entries: Sequence[Entry]) -> None:
        """Let it take in what is new to it. Two reads may be under way: what one has brought the other has not."""
        async with self._handing.setdefault(follower.key, asyncio.Lock()):
            last = follower.after
            new = list(itertools.dropwhile(lambda entry: entry.id <= last, entries))
            if new:
                await follower.entries(new)

    async def catch_up(self, block_ms: int = 0) -> int:
        """Read all there is now, of every Stream; how many entries there were.

        Raises:
            StoreDown: the store did not serve.
        """
        total = 0
        while read := sum([await self.turn(group, block_ms) for group in self._groups]):
            total += read
        return total
