"""Tells other routers of this one's requests: batch after batch, each a few milliseconds after its first record."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping

from kvroute.router.knowledge.sharing import names
from kvroute.router.knowledge.sharing.committing import Committing
from kvroute.router.knowledge.sharing.expected_log import ExpectedLog, Page
from kvroute.router.knowledge.sharing.flushing import keep_flushing
from kvroute.router.knowledge.sharing.followers import FIELD, ExpectedFollower
from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.store import Append, Expire, Write

RENEW_SECONDS = 20.0
"""How often the life of keys in use is made longer again."""
_LEFT = 64
"""Entries kept of a replica that has left."""
_WORK = "telling requests"


class Telling:
    """Sends what the log has queued."""

    def __init__(
        self,
        log: ExpectedLog,
        committing: Committing,
        followers: Mapping[str, ExpectedFollower],
        health: Health,
        clock: Callable[[], float],
        *,
        namespace: str,
        flush_seconds: float,
        keep_seconds: float,
        grace_seconds: float,
    ) -> None:
        """`followers` of the replicas that are here; the Streams of others end after `grace_seconds`."""
        self._log = log
        self._committing = committing
        self._followers = followers
        self._health = health
        self._clock = clock
        self._namespace = namespace
        self._flush_seconds = flush_seconds
        self._keep_ms = int(keep_seconds * 1000)
        self._grace_ms = int(grace_seconds * 1000)
        self._news = asyncio.Event()
        log.wake = self._news.set
        self._kept: dict[str, float] = {}
        """When the life of a replica's Stream was made longer [s]."""
        self.flushes = 0
        """Batches that have arrived."""
        self.records = 0
        """Records that have arrived."""

    async def run(self) -> None:
        """Tell, until cancelled."""
        await keep_flushing(self._news, self._flush_seconds, self.flush, self._health, _WORK)

    async def flush(self) -> bool:
        """Tell one batch; False: there was none.

        Raises:
            StoreDown: the store did not serve; the same batch comes again, and counts once.
        """
        pages = self._log.batch()
        if not pages:
            return False
        now = self._clock()
        await self._committing.commit(_WORK, [write for page in pages for write in self._appending(page, now)])
        self._log.sent()
        for page in pages:
            if self._is_due(page.replica, now):
                self._kept[page.replica] = now
        self.flushes += 1
        self.records += sum(page.records for page in pages)
        return True

    def renewals(self) -> list[Write]:
        """What makes the Streams of all replicas live longer."""
        return [Expire(follower.key, self._keep_ms) for follower in self._followers.values()]

    def left(self, replica: str) -> None:
        """A replica is gone."""
        self._log.forget(replica)
        self._kept.pop(replica, None)

    def _appending(self, page: Page, now: float) -> Iterator[Write]:
        """What tells a page, and keeps its Stream from being there for ever."""
        follower = self._followers.get(page.replica)
        key = names.expected(self._namespace, page.replica)
        if follower is None:  # the end of a request to a replica that has left
            yield Append(key, {FIELD: page.data}, longest=_LEFT)
            yield Expire(key, self._grace_ms)
            return
        yield Append(key, {FIELD: page.data}, longest=follower.longest)
        if self._is_due(page.replica, now):
            yield Expire(key, self._keep_ms)

    def _is_due(self, replica: str, now: float) -> bool:
        """Whether its Stream's life is to be made longer again."""
        return replica in self._followers and now - self._kept.get(replica, -math.inf) >= RENEW_SECONDS
