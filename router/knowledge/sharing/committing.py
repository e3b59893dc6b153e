"""Writes to the shared store, and what comes of them for its health."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.store import Batch, Store, Write


class Committing:
    """Writes that depend on nothing."""

    def __init__(self, store: Store, health: Health, clock: Callable[[], float]) -> None:
        self._store = store
        self._health = health
        self._clock = clock

    async def commit(self, work: str, writes: Sequence[Write]) -> None:
        """Carry out writes, each group that may go together in one step.

        Raises:
            StoreDown: the store did not serve; what of it was carried out is unknown.
        """
        of_key: dict[str, list[Write]] = {}
        for write in writes:
            of_key.setdefault(write.key, []).append(write)
        groups = self._store.together(list(of_key))
        began = self._clock()
        await self._store.commit([Batch([write for key in group for write in of_key[key]]) for group in groups])
        self._health.served(work, self._clock() - began)
