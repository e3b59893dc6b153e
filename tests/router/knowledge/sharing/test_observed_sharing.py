"""Routers that share what engines say through a real server: taking over, and a server that fails in every way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from kvroute.router.core import changes as changing
from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.observed_log import LogNames, Progress
from kvroute.router.knowledge.sharing.observed_sharing import ObservedSettings, ObservedSharing
from kvroute.router.knowledge.sharing.observed_writer import WriterSettings
from kvroute.router.knowledge.sharing.place import place
from kvroute.router.knowledge.sharing.redis_store import RedisStore
from kvroute.router.knowledge.sharing.store import Trouble
from tests.router.knowledge.sharing.schedule import Engine, plain
from tests.router.knowledge.sharing.servers import Server, server

REPLICAS = ["http://a:1", "http://b:1", "http://c:1"]
TTL = 0.9
PATIENCE = 15.0


class Node:
    """One router's knowledge. It listens to the engines whose leases it holds, from wherever the log is."""

    def __init__(self, name: str, url: str, engines: dict[str, Engine], live: list[str]) -> None:
        self.store = RedisStore(place(url), limit=0.4)
        self.observed = Observed()
        self.engines = engines
        self.listening: set[str] = set()
        self.won: list[tuple[str, Progress]] = []
        self.sharing = ObservedSharing(
            self.store,
            self.observed,
            name,
            settings=ObservedSettings(
                ttl_seconds=TTL, writer=WriterSettings(least_tail=2000, entry_bytes=500, grace=0.05)
            ),
            live=lambda: live,
            on_won=self._won,
            on_lost=self.listening.discard,
        )
        for row, replica in enumerate(REPLICAS):
            self.sharing.joined(replica, row, 16)

    def _won(self, replica: str, progress: Progress) -> None:
        self.won.append((replica, progress))
        self.listening.add(replica)

    def listen(self) -> None:
        """Take in what the engines said since."""
        for replica in self.listening:
            row = REPLICAS.index(replica)
            at = self.sharing.writers[replica].progress.next
            for number, batch in enumerate(self.engines[replica].batches[at:], at):
                changing.apply(self.observed, row, batch)
                self.sharing.record(replica, batch, Progress(number + 1, float(number), Source.EXACT))

    def knows(self, replica: str) -> bool:
        """Whether its row is all that the engine said."""
        follower = self.sharing.followers[replica]
        engine = self.engines[replica]
        current = follower.progress.next == len(engine.batches) and (follower.writing or follower.synced)
        return current and plain(self.observed, follower.row) == engine.state(follower.progress)

    def die(self) -> None:
        """Without a word."""
        for task in [*self.sharing._tasks, *self.sharing._following._tasks]:
            task.cancel()
        self.listening.clear()


class Stage:
    """Two routers, three engines that go on talking, one server."""

    def __init__(self, running: Server, url: str | None = None) -> None:
        self.server = running
        self.url = url or running.url
        self.engines = {replica: Engine() for replica in REPLICAS}
        self.live = ["one", "two"]
        self.nodes: list[Node] = []

    def node(self, name: str) -> Node:
        self.nodes.append(Node(name, self.url, self.engines, self.live))
        self.nodes[-1].sharing.start()
        return self.nodes[-1]

    async def until(self, holds: Callable[[], bool], *, talking: bool = True) -> float:
        """The engines talk until it holds; how long that took [s]."""
        start = time.monotonic()
        while not holds():
            assert time.monotonic() - start < PATIENCE
            self.step(talking=talking)
            await asyncio.sleep(0.005)
        return time.monotonic() - start

    def step(self, *, talking: bool = True) -> None:
        for engine in self.engines.values():
            if talking and len(engine.batches) < 3000:
                engine.emit(1)
        for node in self.nodes:
            node.listen()

    async def agree(self, *nodes: Node) -> float:
        """Until these routers, or all, know all that the engines said; the engines are silent meanwhile."""
        who = nodes or self.nodes
        return await self.until(lambda: all(node.knows(r) for node in who for r in REPLICAS), talking=False)

    async def talk(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        await self.until(lambda: time.monotonic() > end)

    async def close(self) -> None:
        for node in self.nodes:
            node.listening.clear()
            await node.sharing.close()
            await node.store.close()


@pytest.fixture
async def stage(redis_server: Server) -> AsyncIterator[Stage]:
    redis_server.tell("FLUSHALL")
    opened = Stage(redis_server)
    yield opened
    await opened.close()


async def test_two_routers(stage: Stage) -> None:
    """Both know all that the engines say, each listens to its share, and one that starts later is warm at once."""
    one, two = stage.node("one"), stage.node("two")
    await stage.talk(0.5)
    await stage.agree()
    assert one.listening | two.listening == set(REPLICAS)
    assert not one.listening & two.listening
    assert one.listening
    assert two.listening
    three = Node("three", stage.url, stage.engines, stage.live)
    await three.sharing.warm()
    assert all(three.knows(replica) for replica in REPLICAS)
    assert all(three.sharing.source(replica) is Source.EXACT for replica in REPLICAS)
    await three.store.close()


async def test_a_router_dies(stage: Stage) -> None:
    """Its engines are listened to by the other soon after its leases expire, from where the log is: nothing is lost."""
    one, two = stage.node("one"), stage.node("two")
    await stage.talk(0.3)
    await stage.agree()
    orphans = set(one.listening)
    one.die()
    stage.nodes.remove(one)
    took = await stage.until(lambda: two.listening == set(REPLICAS))
    assert took < TTL + TTL
    await stage.agree(two)
    for replica, progress in two.won[-len(orphans) :]:
        assert replica in orphans
        assert progress.next > 0
    assert all(two.sharing.followers[replica].gaps == 0 for replica in REPLICAS)
    await one.store.close()


async def test_a_router_stops(stage: Stage) -> None:
    """A router that ends gives its leases back at once."""
    one, two = stage.node("one"), stage.node("two")
    await stage.until(lambda: len(one.listening | two.listening) == 3)
    stage.nodes.remove(one)
    one.listening.clear()
    await one.sharing.close()
    took = await stage.until(lambda: two.listening == set(REPLICAS))
    assert took < TTL
    await stage.agree(two)
    await one.store.close()


async def test_flushed_under_load(stage: Stage) -> None:
    """After FLUSHALL, however often, the routers agree again, and nobody ever believes what is not so."""
    stage.node("one")
    stage.node("two")
    for _ in range(3):
        await stage.talk(0.3)
        stage.server.tell("FLUSHALL")
    await stage.agree()


async def test_streams_are_bounded(stage: Stage) -> None:
    """However much the engines say, the store keeps a snapshot and the entries since; and every key has an end."""
    one = stage.node("one")
    stage.live.remove("two")
    await stage.until(lambda: one.listening == set(REPLICAS))
    await stage.until(lambda: min(one.sharing.writers[replica].snapshots for replica in REPLICAS) >= 8)
    await stage.agree()
    await asyncio.sleep(0.1)
    stage.step()
    await stage.agree()
    for replica in REPLICAS:
        names = LogNames("kvroute", replica)
        (ends,) = await one.store.ends([names.observed])
        assert 0 < ends.length < 400
    keys = await one.store.scan("{kvroute:")
    assert len(keys) <= 12 * len(REPLICAS)
    assert all(int(stage.server.tell("PTTL", key).strip(":\r\n")) > 0 for key in keys)


async def test_the_server_is_full(stage: Stage) -> None:
    """A full server is told as such; routers go on, and agree again when there is room."""
    one, two = stage.node("one"), stage.node("two")
    await stage.talk(0.2)
    await stage.agree()
    stage.server.tell("CONFIG", "SET", "maxmemory", "1")
    try:
        await stage.until(
            lambda: one.sharing.health.trouble is Trouble.FULL or two.sharing.health.trouble is Trouble.FULL
        )
        await stage.talk(0.3)
    finally:
        stage.server.tell("CONFIG", "SET", "maxmemory", "0")
    await stage.agree()


@pytest.fixture
async def own(redis_server: Server) -> AsyncIterator[Stage]:
    """A stage with a server that may be harmed."""
    with server() as running:
        opened = Stage(running)
        yield opened
        await opened.close()


async def test_the_server_is_paused(own: Stage) -> None:
    """A server that keeps silent costs each call its time limit and no more; afterwards all agree, though commands that
    were given up are carried out late."""
    own.node("one")
    own.node("two")
    await own.talk(0.2)
    own.server.pause()
    try:
        slowest = 0.0
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            start = time.monotonic()
            own.step()
            await asyncio.sleep(0.005)
            slowest = max(slowest, time.monotonic() - start)
        assert any(node.sharing.health.trouble is Trouble.SLOW for node in own.nodes)
        assert slowest < 0.4
    finally:
        own.server.resume()
    await own.agree()


async def test_the_server_dies_and_comes_back_empty(own: Stage) -> None:
    """Routers keep what they know, keep listening, and rebuild the logs in a new server."""
    own.node("one")
    own.node("two")
    await own.talk(0.2)
    await own.agree()
    listening = [set(node.listening) for node in own.nodes]
    own.server.kill()
    await own.until(lambda: all(node.sharing.health.trouble is Trouble.UNREACHABLE for node in own.nodes))
    assert [node.listening for node in own.nodes] == listening
    with server(port=own.server.port):
        await own.agree()


class Slow:
    """A proxy before the server: every byte takes 50 ms more, each way."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._carry(reader, onward), self._carry(onward_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                loop.call_later(0.05, writer.write, data)
        loop.call_later(0.05, writer.close)

    async def close(self) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_a_slow_server(redis_server: Server) -> None:
    """With 100 ms more there and back, routers agree all the same, only later, and it is told."""
    redis_server.tell("FLUSHALL")
    slow = Slow(redis_server.port)
    stage = Stage(redis_server, await slow.open())
    stage.node("one")
    stage.node("two")
    await stage.talk(1.0)
    await stage.agree()
    assert all(node.sharing.health.trouble is Trouble.SLOW for node in stage.nodes)
    await stage.close()
    await slow.close()
