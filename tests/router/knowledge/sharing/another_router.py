"""A router as a process of its own, to be stopped and killed: it sends requests, and follows made-up engines' events.

Engine r<i> stores block n + 1 + i * 1,000,000 as its batch n, a hundred a second since `began`, and replays any.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

import numpy as np

from kvroute.router.core import changes as changing
from kvroute.router.core.changes import Change, Stored
from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.observed_log import Progress
from kvroute.router.knowledge.sharing.place import place
from kvroute.router.knowledge.sharing.redis_store import RedisStore
from kvroute.router.knowledge.sharing.sharing import Settings, Sharing
from tests.router.core.deciding import prompt, world

APART = 1_000_000
RATE = 100
SETTINGS = Settings(beat_seconds=0.1, ttl_seconds=0.8, lease_seconds=0.6)


class Engines:
    """The engines' events, followed where this router is to. A `Listener`."""

    def __init__(self, observed: Observed, began: float) -> None:
        self._observed = observed
        self._began = began
        self.sharing: Sharing | None = None
        self.next: dict[str, int] = {}
        """Of the replicas whose events we follow, the batch that is due."""
        self.sources: dict[str, Source] = {}
        self.begun: list[tuple[str, int]] = []
        """Every time that we began, and where."""

    def ingest(self, replica: str, progress: Progress | None) -> None:
        if progress is None:
            self.next.pop(replica, None)
        else:
            self.next[replica] = progress.next
            self.begun.append((replica, progress.next))

    def sourced(self, replica: str, source: Source) -> None:
        self.sources[replica] = source

    def changed(self, replica: str, changes: Sequence[Change]) -> None:
        pass

    def doubted(self, replica: str) -> None:
        pass

    def batches(self) -> int:
        """How many batches each engine has made."""
        return int((time.time() - self._began) * RATE)

    async def run(self) -> None:
        """Events come."""
        while True:
            for replica, due in list(self.next.items()):
                row = int(replica[1:])
                last = min(self.batches(), due + 200)
                for n in range(due, last):
                    self._batch(replica, row, n)
                self.next[replica] = max(due, last)
            await asyncio.sleep(0.01)

    def _batch(self, replica: str, row: int, n: int) -> None:
        key = np.array([n + 1 + row * APART], np.uint64)
        changes = (Stored(0, key, key),)
        changing.apply(self._observed, row, changes)
        assert self.sharing is not None
        assert self.sharing.observing is not None
        self.sharing.observing.record(replica, changes, Progress(n + 1, float(n), Source.EXACT))


async def main(url: str, replicas: int, requests: int, began: float, *, observes: bool) -> None:
    """Run until killed; says so when it has sent its requests."""
    deciding = world(replicas)
    engines = Engines(deciding.index.observed, began)
    store = RedisStore(place(url), limit=0.5)
    sharing = engines.sharing = Sharing(deciding, store, SETTINGS, listener=engines)
    for replica in deciding.fleet:
        sharing.joined(replica.name)
        if observes and sharing.observing is not None:
            sharing.observing.joined(replica.name, replica.row, 16)
    sharing.start()
    await sharing.warm(5.0)
    for i in range(requests):
        deciding.decide(prompt(f"{i} " * 200), time.monotonic())
    sys.stdout.write("sent\n")
    sys.stdout.flush()
    await engines.run()


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), observes=sys.argv[5] == "observes")
    )
