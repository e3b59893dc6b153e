"""Workers that share one port choose as one router would, however connections fall, and survive each other."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.system.chats import NEAR, Chats
from tests.system.stage import Reply, Router, Stage, staged, text, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
log = logging.getLogger(__name__)
WORKERS = 2


class Port:
    """Workers behind one port, and a single router beside them."""

    def __init__(self, stage: Stage, workers: Router, single: Router) -> None:
        self.stage = stage
        self.workers = workers
        self.single = single

    async def numbers(self, metric: str) -> dict[str, float]:
        """Worker -> the sum of its samples of a metric."""
        found: dict[str, float] = {}
        for line in (await self.workers.metrics()).splitlines():
            match = re.fullmatch(rf'{metric}{{(?:.*,)?worker="(\d+)".*}} (\S+)', line)
            if match is not None:
                found[match[1]] = found.get(match[1], 0.0) + float(match[2])
        return found

    def pids(self) -> dict[int, int]:
        """Worker -> the process that served last."""
        return {int(n): int(pid) for n, pid in re.findall(r"worker (\d+) serves \(process (\d+)\)", self.workers.log())}

    async def up(self) -> bool:
        """All workers serve, and together they follow each engine's events once."""
        followed = await self.numbers("kvroute_sharing_ingesting_replicas")
        connected = await self.numbers("kvroute_events_connected")
        count = len(self.stage.engines)
        return len(followed) == WORKERS and sum(followed.values()) == sum(connected.values()) == count

    async def exact(self) -> bool:
        """Every worker's knowledge of every engine is exact."""
        page = await self.workers.metrics()
        exact = re.findall(r'kvroute_replica_knowledge{.*source="exact".*} 1', page)
        return len(exact) == WORKERS * len(self.stage.engines)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port(folder: str) -> AsyncIterator[Port]:
    """Three engines."""
    async with staged(3, folder, speed=1.0, decode_rate=500.0, prefill_rate=8000.0) as stage:
        workers, single = await asyncio.gather(stage.router("--workers", str(WORKERS), redis="workers"), stage.router())
        made = Port(stage, workers, single)
        await until(made.up)
        await asyncio.gather(until(made.exact), until(single.exact))
        yield made


async def test_they_find_as_much_as_one(port: Port) -> None:
    """Whether each request comes over a connection of its own, which any worker may get, or all over one."""
    rates: dict[str, float] = {}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as spread,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as skewed,
    ):
        ways = (("one router", port.single, spread), ("spread", port.workers, spread), ("skewed", port.workers, skewed))
        for way, router, session in ways:
            await Chats(f"{way} first", conversations=6, turns=2).hold([router], session)
            before = await port.numbers("kvroute_requests_total")
            chats, meter = Chats(way, conversations=17, turns=4), port.stage.hit_rate()
            await chats.hold([router], session, at_once=1 if session is skewed else 3)
            assert {reply.status for reply in chats.replies} == {200}
            rates[way] = meter.now()
            after = await port.numbers("kvroute_requests_total")
            got = [after.get(str(n), 0.0) - before.get(str(n), 0.0) for n in range(WORKERS)]
            log.info("%s: hit rate %.4f, requests per worker %s", way, rates[way], got)
            if router is port.workers:
                assert sum(got) == 68
                assert (min(got) == 0) == (session is skewed)
    assert rates["spread"] >= NEAR * rates["one router"]
    assert rates["skewed"] >= NEAR * rates["one router"]


async def test_a_killed_worker_takes_only_its_open_requests_along(port: Port) -> None:
    """What began after its death is answered by others, who know all that it knew, and its engines are followed on."""
    replies: list[Reply] = []
    over = asyncio.Event()

    async def client(number: int) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            count = 0
            while not over.is_set():
                replies.append(await port.workers.ask(text(f"client {number} {count % 5}", 36), session))
                count += 1
                await asyncio.sleep(0.01)

    followed = await port.numbers("kvroute_sharing_ingesting_replicas")
    victim = max(followed, key=lambda worker: followed[worker])
    pid = port.pids()[int(victim)]
    words = text("known before", 100)
    assert (await port.workers.ask(words)).status == 200
    clients = [asyncio.create_task(client(number)) for number in range(6)]
    await asyncio.sleep(0.5)
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    past = [text(f"past all {number}", 100) for number in range(6)]
    for other, engine in zip(past, [*port.stage.engines, *port.stage.engines], strict=True):
        assert (await port.stage.tell(engine, other)).status == 200
    await until(lambda: comes_back(port, int(victim), pid))
    taken = time.monotonic() - killed
    over.set()
    await asyncio.gather(*clients)
    failed = [reply for reply in replies if reply.status != 200]
    log.info(
        "worker killed: %d of %d requests broke; all followed again after %.2f s", len(failed), len(replies), taken
    )
    # A connection that stood in the dead worker's queue may have been opened a moment before.
    assert all(reply.began < killed + 0.05 for reply in failed), failed
    assert len(failed) <= 6
    await until(port.exact)
    for known in (words, *past):
        async with aiohttp.ClientSession() as session:
            reply = await port.workers.ask(known, session)
        assert reply.foretold, reply
        assert reply.cached > 300


async def comes_back(port: Port, worker: int, old: int) -> bool:
    return port.pids()[worker] != old and await port.up()
