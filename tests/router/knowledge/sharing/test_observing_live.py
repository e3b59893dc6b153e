"""Routers share what engines say, without pause, through a real Redis server, while that server is harmed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from kvroute.router.core.decide import Deciding
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.place import Place, place
from kvroute.router.knowledge.sharing.redis_store import RedisStore
from kvroute.router.knowledge.sharing.sharing import Sharing
from kvroute.scorers.contract import Column
from tests.router.core.deciding import prompt, sent, world
from tests.router.knowledge.sharing.another_router import APART, SETTINGS, Engines
from tests.router.knowledge.sharing.servers import Server, server
from tests.router.running import until

REPLICAS = 3


class Live:
    """One router with all its tasks."""

    def __init__(self, at: Place, began: float) -> None:
        self.deciding: Deciding = world(REPLICAS)
        self.engines = Engines(self.deciding.index.observed, began)
        self.store = RedisStore(at, limit=0.3)
        self.sharing = self.engines.sharing = Sharing(self.deciding, self.store, SETTINGS, listener=self.engines)
        assert self.sharing.observing is not None
        self.observing = self.sharing.observing
        for replica in self.deciding.fleet:
            self.sharing.joined(replica.name)
            self.observing.joined(replica.name, replica.row, 16)

    def knows(self, batches: int) -> bool:
        """Whether all that the engines said so far is known."""
        observed = self.deciding.index.observed
        return all(observed.holders(n + 1 + row * APART) >> row & 1 for row in range(REPLICAS) for n in range(batches))


@asynccontextmanager
async def live(at: Place, count: int = 2) -> AsyncIterator[list[Live]]:
    """Routers that have started; each engine is listened to by one of them."""
    began = time.time()
    routers = [Live(at, began) for _ in range(count)]
    tasks = [asyncio.create_task(router.engines.run()) for router in routers]
    for router in routers:
        router.sharing.start()
    try:
        await shared(routers)
        yield routers
    finally:
        for task in tasks:
            task.cancel()
        for router in routers:
            await router.sharing.close()
            await router.store.close()


async def shared(routers: list[Live]) -> None:
    """Returns when each engine is listened to by one router, and all know what was said until now."""
    batches = routers[0].engines.batches()
    await until(lambda: sum(len(router.engines.next) for router in routers) == REPLICAS)
    await until(lambda: all(router.knows(batches) for router in routers))
    await until(
        lambda: all(
            router.observing.mine(name) or router.engines.sources.get(name) is Source.EXACT
            for router in routers
            for name in ("r0", "r1", "r2")
        )
    )


@pytest.fixture
def died(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged of tasks that died."""
    return lambda: [record.message for record in caplog.records if record.levelno >= logging.ERROR]


@contextmanager
def paused(redis: Server) -> Iterator[None]:
    """It answers nobody meanwhile."""
    redis.pause()
    try:
        yield
    finally:
        redis.resume()


async def test_redis_paused(died: Callable[[], list[str]]) -> None:
    """While it is silent each router comes to listen to all engines itself; afterwards they share again."""
    with server() as redis:
        async with live(place(redis.url)) as routers:
            with paused(redis):
                await until(lambda: all(len(router.engines.next) == REPLICAS for router in routers))
                batches = routers[0].engines.batches()
                await until(lambda: all(router.knows(batches) for router in routers))
            await shared(routers)
    assert died() == []


async def test_redis_killed_and_back_empty(died: Callable[[], list[str]]) -> None:
    """A new server knows nothing: the logs are written anew from what the routers know."""
    with server() as redis:
        async with live(place(redis.url)) as routers:
            redis.kill()
            await asyncio.sleep(0.5)
            with server(port=redis.port):
                await shared(routers)
                late = Live(place(redis.url), time.time())
                await late.observing.look()
                assert late.knows(30)
                await late.store.close()
    assert died() == []


async def test_redis_flushed(died: Callable[[], list[str]]) -> None:
    """Again and again, with the leases: nothing that the engines say is lost."""
    with server() as redis:
        async with live(place(redis.url)) as routers:
            for _ in range(5):
                redis.tell("FLUSHALL")
                await asyncio.sleep(0.2)
            await shared(routers)
    assert died() == []


async def test_redis_full(died: Callable[[], list[str]]) -> None:
    """A server that takes no writes leaves every router to listen itself."""
    with server("--maxmemory-policy", "noeviction") as redis:
        async with live(place(redis.url)) as routers:
            redis.tell("CONFIG", "SET", "maxmemory", "1")
            await until(lambda: all(len(router.engines.next) == REPLICAS for router in routers))
            redis.tell("CONFIG", "SET", "maxmemory", "0")
            await shared(routers)
    assert died() == []


async def test_no_redis_at_the_start(died: Callable[[], list[str]]) -> None:
    """Routers that find no server listen to all engines themselves, and share once there is one."""
    with server() as redis:
        redis.kill()
        began = time.time()
        router = Live(place(redis.url), began)
        task = asyncio.create_task(router.engines.run())
        router.sharing.start()
        assert not await router.sharing.warm(0.05)
        await until(lambda: len(router.engines.next) == REPLICAS)
        await until(lambda: router.knows(30))
        with server(port=redis.port):
            await shared([router])
            await until(lambda: all(router.observing.mine(name) for name in ("r0", "r1", "r2")))
            task.cancel()
            await router.sharing.close()
        await router.store.close()
    assert died() == []


async def test_in_a_cluster(redis_cluster: list[Server], died: Callable[[], list[str]]) -> None:
    """Each replica's keys lie on one node, beats on another: requests and events are shared all the same."""
    at = Place("cluster", tuple(("127.0.0.1", node.port) for node in redis_cluster))
    async with live(at) as routers:
        one, other = routers
        decision = sent(one.deciding.decide(prompt("x" * 500), time.monotonic()))
        cells = [replica.cells for replica in other.deciding.fleet]
        await until(lambda: sum(cell[Column.REQUESTS] for cell in cells) == 1.0)
        one.deciding.ledger.settle(decision.lease, time.monotonic(), completed=True)
        await until(lambda: sum(cell[Column.REQUESTS] for cell in cells) == 0.0)
    assert died() == []
