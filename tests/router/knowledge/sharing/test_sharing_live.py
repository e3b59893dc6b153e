"""Routers that share through a real Redis server, in real time, while that server is harmed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from kvroute.router.core.decide import Deciding, Decision
from kvroute.router.knowledge.sharing.place import place
from kvroute.router.knowledge.sharing.redis_store import RedisStore
from kvroute.router.knowledge.sharing.sharing import Settings, Sharing
from kvroute.router.knowledge.sharing.store import Batch, Entry, EntryId, Outcome, Trouble
from kvroute.scorers.contract import Column, Request
from tests.router.core.deciding import prompt, sent, world
from tests.router.knowledge.sharing.servers import Server, server
from tests.router.running import until

_SETTINGS = Settings(beat_seconds=0.1, ttl_seconds=0.8, lease_seconds=0.6)


class Live:
    """One router with all its tasks."""

    def __init__(self, url: str, replicas: int = 2, kind: type[RedisStore] = RedisStore) -> None:
        self.deciding: Deciding = world(replicas)
        self.store = kind(place(url), limit=0.3)
        self.sharing = Sharing(self.deciding, self.store, _SETTINGS)
        for replica in self.deciding.fleet:
            self.sharing.joined(replica.name)

    def decide(self, request: Request) -> Decision:
        return sent(self.deciding.decide(request, time.monotonic()))

    def end(self, request: Request, decision: Decision) -> None:
        self.deciding.ledger.first_output(decision.lease, time.monotonic())
        self.deciding.settle(request, decision, time.monotonic(), completed=True, output_tokens=5)

    @property
    def requests(self) -> list[float]:
        return [replica.cells[Column.REQUESTS] for replica in self.deciding.fleet]


@asynccontextmanager
async def live(
    url: str, count: int, replicas: int = 2, kind: type[RedisStore] = RedisStore
) -> AsyncIterator[list[Live]]:
    """Routers that have started and know each other."""
    routers = [Live(url, replicas, kind) for _ in range(count)]
    for router in routers:
        router.sharing.start()
    try:
        for router in routers:
            assert await router.sharing.warm(5.0)
        await until(lambda: all(len(router.sharing.peers) == count - 1 for router in routers))
        yield routers
    finally:
        for router in routers:
            await router.sharing.close()
            await router.store.close()


@pytest.fixture
def bad(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged of tasks that died."""
    return lambda: [record.message for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_request_is_told_within_milliseconds(redis_server: Server) -> None:
    """Load appears at the other router soon after the flush interval, and goes when the request ends."""
    redis_server.tell("FLUSHALL")
    async with live(redis_server.url, 2) as (one, other):
        request = prompt("a" * 5000)
        took = []
        for _ in range(20):
            began = time.monotonic()
            decision = one.decide(request)
            await until(lambda: sum(other.requests) == 1.0)
            took.append(time.monotonic() - began)
            one.end(request, decision)
            await until(lambda: sum(other.requests) == 0.0)
        assert sorted(took)[10] < 0.1
        assert other.deciding.index.depths(request.keys, [0, 1]) == one.deciding.index.depths(request.keys, [0, 1])
        assert one.sharing.health.trouble is None


async def test_a_router_that_starts_is_warm(redis_server: Server) -> None:
    """All that was sent before is known when `warm` says so, also when it is much."""
    redis_server.tell("FLUSHALL")
    chats = [prompt(f"{i} " + "x" * 4000) for i in range(200)]
    async with live(redis_server.url, 1, replicas=3) as (one,):
        for chat in chats:
            one.end(chat, one.decide(chat))
        before = [one.deciding.index.depths(chat.keys, [0, 1, 2]) for chat in chats]
    async with live(redis_server.url, 1, replicas=3) as (again,):
        assert [again.deciding.index.depths(chat.keys, [0, 1, 2]) for chat in chats] == before
        assert again.requests == [0.0] * 3


class SlowStore(RedisStore):
    """The way there and back takes 100 ms."""

    async def commit(self, batches: Sequence[Batch]) -> list[Outcome]:
        await asyncio.sleep(0.1)
        return await super().commit(batches)

    async def read(self, after: Mapping[str, EntryId], *, block_ms: int, count: int) -> dict[str, list[Entry]]:
        found = await super().read(after, block_ms=block_ms, count=count)
        await asyncio.sleep(0.1)
        return found


async def test_a_slow_redis(redis_server: Server, bad: Callable[[], list[str]]) -> None:
    """It is shown to be slow; what routers know of each other is late by that much, and nobody is given up."""
    redis_server.tell("FLUSHALL")
    async with live(redis_server.url, 2, kind=SlowStore) as (one, other):
        await until(lambda: one.sharing.health.trouble is Trouble.SLOW)
        for i in range(50):
            one.decide(prompt(f"{i} " * 200))
        await until(lambda: sum(other.requests) == 50.0)
        assert other.sharing.figures.lag >= 0.1
        assert not one.sharing.figures.lapses
        assert one.sharing.figures.round_trip >= 0.05
    assert bad() == []


async def test_redis_paused_and_back(bad: Callable[[], list[str]]) -> None:
    """While it answers nobody, routers decide alone, and say so; then they agree again."""
    with server() as redis:
        async with live(redis.url, 2) as (one, other):
            held = [(request := prompt(f"{i}" * 500), one.decide(request)) for i in range(5)]
            await until(lambda: sum(other.requests) == 5.0)
            redis.pause()
            one.end(*held.pop())
            held += [(request := prompt(f"more {i}" * 500), one.decide(request)) for i in range(5)]
            await until(lambda: one.sharing.health.trouble is Trouble.SLOW)
            # What is not heard of any more is not believed for ever.
            await until(lambda: sum(other.requests) == 0.0)
            redis.resume()
            await until(lambda: sum(other.requests) == 9.0)
            await until(lambda: one.sharing.health.trouble is None and other.sharing.health.trouble is None)
            for request, decision in held:
                one.end(request, decision)
            await until(lambda: sum(other.requests) == 0.0)
    assert bad() == []


async def test_redis_killed_and_back_empty(bad: Callable[[], list[str]]) -> None:
    """A server that lost everything is filled again: open requests are told anew, later ones go on."""
    with server() as redis:
        port = redis.port
        async with live(redis.url, 2) as (one, other):
            held = [(request := prompt(f"{i}" * 500), one.decide(request)) for i in range(5)]
            await until(lambda: sum(other.requests) == 5.0)
            redis.kill()
            await until(lambda: one.sharing.health.trouble is Trouble.UNREACHABLE)
            await until(lambda: sum(other.requests) == 0.0)
            one.end(*held.pop())
            held.append((request := prompt("in between" * 100), one.decide(request)))
            with server(port=port):
                await until(lambda: sum(other.requests) == 5.0)
                for request, decision in held:
                    one.end(request, decision)
                await until(lambda: sum(other.requests) == 0.0)
                await until(lambda: one.sharing.health.trouble is None)
    assert bad() == []


async def test_redis_flushed_under_load(bad: Callable[[], list[str]]) -> None:
    """FLUSHALL while requests come and go: in the end both routers have the same load, which is none."""
    with server() as redis:
        async with live(redis.url, 2) as routers:
            for i in range(60):
                if i % 10 == 5:
                    redis.tell("FLUSHALL")
                held = [(router, request := prompt(f"{i} {j} " * 50), router.decide(request))
                        for j in range(4) for router in routers]  # fmt: skip
                await asyncio.sleep(0.01)
                for router, request, decision in held:
                    router.end(request, decision)
            await until(lambda: all(sum(router.requests) == 0.0 for router in routers))
            request = prompt("after all this" * 50)
            routers[0].decide(request)
            await until(lambda: sum(routers[1].requests) == 1.0)
    assert bad() == []


async def test_redis_full(bad: Callable[[], list[str]]) -> None:
    """A server without memory refuses what is written: it is shown, and what waited is told when there is room."""
    with server("--maxmemory-policy", "noeviction") as redis:
        async with live(redis.url, 2) as (one, other):
            redis.tell("CONFIG", "SET", "maxmemory", "1")
            held = [(request := prompt(f"{i}" * 500), one.decide(request)) for i in range(5)]
            await until(lambda: one.sharing.health.trouble is Trouble.FULL)
            assert sum(other.requests) == 0.0
            redis.tell("CONFIG", "SET", "maxmemory", "0")
            await until(lambda: sum(other.requests) == 5.0)
            for request, decision in held:
                one.end(request, decision)
            await until(lambda: sum(other.requests) == 0.0)
    assert bad() == []


async def test_keys_do_not_stay_for_ever(redis_server: Server) -> None:
    """Every key has an end, and that of a replica which has left comes soon."""
    redis_server.tell("FLUSHALL")
    async with live(redis_server.url, 1) as (one,):
        requests = [prompt(f"{i} " * 100) for i in range(20)]
        for request in requests:
            one.end(request, one.decide(request))
        await until(lambda: one.sharing.figures.told >= 60)
        one.sharing.left("r1")

        def life(key: str) -> int:
            return int(redis_server.tell("TTL", key).strip(":\r\n"))

        await until(lambda: 0 < life("{kvroute:r1}:expected") <= 60)
        assert life("{kvroute:r0}:expected") > 3000
        assert life("{kvroute}:presence") > 3000
