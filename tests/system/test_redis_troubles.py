"""Two router processes under load while their Redis server is killed, paused, slowed, filled and flushed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
import pytest
import pytest_asyncio

from tests.router.knowledge.sharing.servers import Server, server
from tests.system.stage import Reply, Router, Stage, staged, text, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
log = logging.getLogger(__name__)
LONGEST = 1.0
"""No request takes longer: one that waited for the store twice would [s]."""
P99 = 0.4
"""Nor do many take so long: those that waited once would [s]."""
EVERY = 0.04
"""One request comes in so many seconds."""


class Distance:
    """What lies between the routers and the server: bytes take `delay` seconds each way."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay = 0.0

    async def open(self) -> int:
        """The port to reach the server through."""
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._carry(reader, onward), self._carry(onward_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                loop.call_later(self.delay, writer.write, data)
        loop.call_later(self.delay, writer.close)

    async def close(self) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Pair:
    """Two routers that share, and what lies between them."""

    def __init__(self, stage: Stage, redis: Server, distance: Distance, routers: list[Router]) -> None:
        self.stage = stage
        self.redis = redis
        self.distance = distance
        self.routers = routers
        self.calm: list[float] = []
        """Seconds that requests take while all is well."""

    async def are(self, *states: str) -> bool:
        """Both find the store so, and show it where Prometheus looks."""
        for router in self.routers:
            if (await router.sharing())["state"] not in states:
                return False
            page = await router.metrics()
            if not any(f'kvroute_sharing_state{{state="{state}"}} 1' in page for state in states):
                return False
        return True

    async def agree(self, about: str) -> bool:
        """Each knows of a new prompt that the other has sent."""
        one, two = self.routers
        for sender, other in ((one, two), (two, one)):
            words = text(f"{about} {id(sender)}", 100)
            await sender.ask(words)
            await until(lambda other=other, words=words: knows(other, words))  # type: ignore[misc]
        return True


async def knows(router: Router, words: str) -> bool:
    return await router.expects(words) > 300


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(folder: str) -> AsyncIterator[Pair]:
    """Engines with events and without, two routers, calm."""
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(server())
        distance = Distance(redis.port)
        port = await distance.open()
        stack.push_async_callback(distance.close)
        stage = await stack.enter_async_context(staged(2, folder, redis))
        stage.redis_url = f"redis://127.0.0.1:{port}"
        routers = await asyncio.gather(*(stage.router(redis="troubled") for _ in range(2)))
        await asyncio.gather(*(until(router.exact) for router in routers))
        made = Pair(stage, redis, distance, list(routers))
        await until(lambda: made.are("ok"))
        async with load(made) as replies:
            await asyncio.sleep(1.5)
        made.calm = [reply.seconds for reply in replies]
        yield made
        for process in routers:
            log.info("%s", process.log())


@asynccontextmanager
async def load(pair: Pair) -> AsyncIterator[list[Reply]]:
    """Requests through both routers in turn, until the block is left: their replies."""
    replies: list[Reply] = []
    under_way: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        replies.append(await pair.routers[number % 2].ask(text(f"load {number % 20}", 36)))

    async def all_of_them() -> None:
        number = 0
        while True:
            task = asyncio.create_task(one(number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
            await asyncio.sleep(EVERY)

    running = asyncio.create_task(all_of_them())
    try:
        yield replies
    finally:
        running.cancel()
        await asyncio.gather(*under_way)


async def through(pair: Pair, name: str, harm: Callable[[], object], heal: Callable[[], object], *states: str,
                  alone: bool = False) -> None:  # fmt: skip
    """Under load: harm the server, see the trouble shown, heal it, see that over, and that knowledge has come together
    again; no request failed or waited. `alone`: not healed before each router follows all engines itself."""
    async with load(pair) as replies:
        await asyncio.sleep(0.2)
        harm()
        shown = await until(lambda: pair.are(*states))
        one, two = pair.routers
        meanwhile = text(f"meanwhile {name}", 100)
        assert (await one.ask(meanwhile)).status == 200
        await asyncio.sleep(0.5)
        if alone:
            await until(lambda: each_follows_all(pair))
            past = text(f"past all {name}", 100)
            assert (await pair.stage.tell(pair.stage.engines[0], past)).status == 200
            await until(lambda: knows(one, past))
            await until(lambda: knows(two, past))
        heal()
        healed = await until(lambda: pair.are("ok"))
        await until(lambda: knows(two, meanwhile))
        await pair.agree(f"after {name}")
    told(pair, f"{name}: shown after {shown:.2f} s, over {healed:.2f} s after its end", replies)


def told(pair: Pair, name: str, replies: list[Reply]) -> None:
    """No request failed or waited."""
    seconds = [reply.seconds for reply in replies]
    p99, calm = float(np.percentile(seconds, 99)), float(np.percentile(pair.calm, 99))
    figures = f"p99 {p99:.3f} s, longest {max(seconds):.3f} s; calm p99 {calm:.3f} s"
    log.info("%s; %d requests, %s", name, len(replies), figures)
    assert [reply for reply in replies if reply.status != 200] == []
    assert max(seconds) < LONGEST + max(pair.calm)
    assert p99 < P99 + max(pair.calm)


async def test_slow(pair: Pair) -> None:
    """100 ms there and back."""

    def far() -> None:
        pair.distance.delay = 0.05

    def near() -> None:
        pair.distance.delay = 0.0

    await through(pair, "slow", far, near, "slow")


async def test_full(pair: Pair) -> None:
    """It refuses to write."""
    refuse, accept = ("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")
    await through(pair, "full", lambda: pair.redis.tell(*refuse), lambda: pair.redis.tell(*accept), "full")


async def test_paused(pair: Pair) -> None:
    """SIGSTOP and SIGCONT: connections stand, and nobody answers."""
    await through(pair, "paused", pair.redis.pause, pair.redis.resume, "slow")


async def test_flushed(pair: Pair) -> None:
    """FLUSHALL: all that was shared is gone, and told anew."""
    async with load(pair) as replies:
        words = text("before the flush", 100)
        await pair.routers[0].ask(words)
        await until(lambda: knows(pair.routers[1], words))
        for _ in range(3):
            pair.redis.tell("FLUSHALL")
            await asyncio.sleep(0.3)
        await pair.agree("after the flush")
        await until(lambda: pair.are("ok"))
        for router in pair.routers:
            assert await knows(router, words)
            assert (await router.sharing())["routers"] == 1
        await until(lambda: leased(pair))
    told(pair, "flushed", replies)


async def leased(pair: Pair) -> bool:
    """Each engine's events are followed by one router."""
    followed = [name for router in pair.routers for name in await router.follows()]
    return sorted(followed) == sorted(pair.stage.held())


async def each_follows_all(pair: Pair) -> bool:
    """Both know of all engines, exactly, by themselves."""
    everyone = set(pair.stage.held())
    return all([await router.follows() == everyone and await router.exact() for router in pair.routers])


async def test_killed(pair: Pair) -> None:
    """The server is gone with all that it held; another one comes up at its place when both can do without."""
    stack = contextlib.ExitStack()

    def again() -> None:
        stack.enter_context(server(port=pair.redis.port))

    with stack:
        await through(pair, "killed", pair.redis.kill, again, "unreachable", alone=True)
        await until(lambda: leased(pair))
