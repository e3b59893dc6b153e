"""Routers as processes that are stopped and killed, over a real Redis server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from kvroute.router.core.decide import Deciding
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.place import place
from kvroute.router.knowledge.sharing.redis_store import RedisStore
from kvroute.router.knowledge.sharing.sharing import Sharing
from kvroute.scorers.contract import Column
from tests.router.core.deciding import world
from tests.router.knowledge.sharing.another_router import APART, SETTINGS, Engines
from tests.router.knowledge.sharing.servers import Server
from tests.router.running import until

_ROOT = Path(__file__).parents[4]


@contextmanager
def another(
    url: str, replicas: int, requests: int, began: float, observes: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Another router, which has sent its requests."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.router.knowledge.sharing.another_router",
         url, str(replicas), str(requests), str(began), observes],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def said(process: subprocess.Popen[str]) -> None:
    """Returns when it has sent its requests."""
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "sent\n"


class This:
    """The router in this process."""

    def __init__(self, url: str, replicas: int, began: float) -> None:
        self.deciding: Deciding = world(replicas)
        self.engines = Engines(self.deciding.index.observed, began)
        self.store = RedisStore(place(url), limit=0.5)
        self.sharing = self.engines.sharing = Sharing(self.deciding, self.store, SETTINGS, listener=self.engines)

    @property
    def load(self) -> float:
        return sum(replica.cells[Column.REQUESTS] for replica in self.deciding.fleet)

    def knows(self, row: int, batches: int) -> bool:
        """Whether all of an engine's first batches are known."""
        observed = self.deciding.index.observed
        return all(observed.holders(n + 1 + row * APART) >> row & 1 for n in range(batches))


@asynccontextmanager
async def this(url: str, replicas: int, began: float, *, observes: bool = False) -> AsyncIterator[This]:
    router = This(url, replicas, began)
    for replica in router.deciding.fleet:
        router.sharing.joined(replica.name)
        if observes and router.sharing.observing is not None:
            router.sharing.observing.joined(replica.name, replica.row, 16)
    router.sharing.start()
    running = asyncio.create_task(router.engines.run())
    try:
        assert await router.sharing.warm(5.0)
        yield router
    finally:
        running.cancel()
        await router.sharing.close()
        await router.store.close()


async def test_a_killed_routers_load_vanishes(redis_server: Server) -> None:
    """SIGKILL: its open requests are gone from the others within the TTL."""
    redis_server.tell("FLUSHALL")
    now = time.time()
    async with this(redis_server.url, 2, now) as router:
        with another(redis_server.url, 2, 7, now) as process:
            await said(process)
            await until(lambda: router.load == 7.0)
            process.kill()
            killed = time.monotonic()
            await until(lambda: router.load == 0.0)
            assert time.monotonic() - killed < 5.0
            assert len(router.sharing.peers) == 0


async def test_a_stopped_routers_load_comes_back(redis_server: Server) -> None:
    """SIGSTOP: given up after the TTL; SIGCONT: its requests, which still run, are load again."""
    redis_server.tell("FLUSHALL")
    now = time.time()
    async with this(redis_server.url, 2, now) as router:
        with another(redis_server.url, 2, 7, now) as process:
            await said(process)
            await until(lambda: router.load == 7.0)
            process.send_signal(signal.SIGSTOP)
            await until(lambda: router.load == 0.0)
            process.send_signal(signal.SIGCONT)
            await until(lambda: router.load == 7.0)


async def test_a_killed_routers_ingest_leases_move(redis_server: Server) -> None:
    """Replicas are shared out between two routers; when one is killed the other goes on, within 5 s, without a loss."""
    redis_server.tell("FLUSHALL")
    now = time.time()
    with another(redis_server.url, 4, 0, now, "observes") as process:
        await said(process)
        async with this(redis_server.url, 4, now, observes=True) as router:
            engines = router.engines
            # It was there first, so it holds all of them: what it hears, we know.
            await until(lambda: all(router.knows(row, 50) for row in range(4)))
            assert not engines.next
            assert set(engines.sources.values()) == {Source.EXACT}
            process.kill()
            killed = time.monotonic()
            await until(lambda: len(engines.next) == 4)
            assert time.monotonic() - killed < 5.0
            # It goes on where the log ended, not at the beginning.
            assert all(n >= 50 for _, n in engines.begun)
            batches = engines.batches()
            await until(lambda: all(router.knows(row, batches) for row in range(4)))
