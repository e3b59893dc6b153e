"""Streams are read from their beginning before they are followed: one by one, so that nothing comes all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kvroute.router.knowledge.sharing.followers import ExpectedFollower, PresenceFollower
from kvroute.router.knowledge.sharing.following import Following
from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.store import Store, StoreDown

_COUNT = 16
"""Entries taken at once: at most 2 MiB."""
_BEATS = 1_000
_WORK = "reading what was sent"


class Warming:
    """What is still to be read, and then followed."""

    def __init__(
        self,
        store: Store,
        following: Following,
        presence: PresenceFollower,
        health: Health,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._following = following
        self._presence = presence
        self._health = health
        self._clock = clock
        self._cold: dict[str, ExpectedFollower] = {}
        self._due = asyncio.Event()
        self._due.set()
        self.warm = asyncio.Event()
        """Set while everything has been read."""

    def __len__(self) -> int:
        """Streams still to be read."""
        return len(self._cold)

    def add(self, follower: ExpectedFollower) -> None:
        """Read this one from its beginning."""
        self._following.leave(follower.key)
        follower.rewind()
        self._cold[follower.key] = follower
        self.warm.clear()
        self._due.set()

    def drop(self, follower: ExpectedFollower) -> None:
        """Its replica has left."""
        follower.gone = True
        self._cold.pop(follower.key, None)
        self._following.leave(follower.key)

    async def run(self) -> None:
        """Read, until cancelled."""
        while True:
            await self._due.wait()
            try:
                await self.warm_up()
            except StoreDown as error:
                await asyncio.sleep(self._health.failed(_WORK, error))

    async def warm_up(self) -> None:
        """Read all that is cold.

        Raises:
            StoreDown: the store did not serve; what was read counts.
        """
        await self._meet()
        while self._cold:
            follower = next(iter(self._cold.values()))
            while not follower.gone and (
                found := await self._store.read({follower.key: follower.after}, block_ms=0, count=_COUNT)
            ):
                await follower.entries(found[follower.key])
            if self._cold.get(follower.key) is follower:
                del self._cold[follower.key]
                follower.warm = True
                self._following.follow(follower)
        self._health.served(_WORK)
        self._due.clear()
        self.warm.set()

    async def _meet(self) -> None:
        """Hear who is alive, before what they have sent."""
        key = self._presence.key
        self._presence.ahead = await self._store.time_ms(key) / 1000 - self._clock()
        while found := await self._store.read({key: self._presence.after}, block_ms=0, count=_BEATS):
            await self._presence.entries(found[key])
        self._following.follow(self._presence)
