"""A cache that followers find to be empty: told to the router that follows the engine itself."""

from __future__ import annotations

from collections.abc import Iterable

from kvroute.router.knowledge.sharing.observed_line import Line
from kvroute.router.knowledge.sharing.observed_writers import ObservedWriters
from kvroute.router.knowledge.sharing.store import Batch, EntryId, Put, Store

_TTL_MS = 5_000


class Doubts:
    """A key for each doubted replica: where in the log the follower was. It is told again until it is answered by a
    clearing in the log, and heeded only by a writer that has not cleared the row since then."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tell(self, lines: Iterable[Line]) -> None:
        """Tell what is in doubt.

        Raises:
            StoreDown: the store did not serve.
        """
        doubted = [line.follower for line in lines if line.follower.doubted and line.follower.synced]
        await self._store.commit(
            [Batch([Put(follower.names.doubt, str(follower.after).encode(), _TTL_MS)]) for follower in doubted]
        )

    async def heard(self, writers: ObservedWriters) -> list[str]:
        """Which of the replicas that we write are doubted.

        Raises:
            StoreDown: the store did not serve.
        """
        asked = list(writers)
        found = await self._store.get([writers[replica].names.doubt for replica in asked])
        return [
            replica
            for replica, at in zip(asked, found, strict=True)
            if at is not None and replica in writers and _entry(at) > writers[replica].cleared
        ]


def _entry(at: bytes) -> EntryId:
    """The id in a doubt; before all others where it is none."""
    try:
        return EntryId.parse(at.decode())
    except ValueError:
        return EntryId()
