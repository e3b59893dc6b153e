"""Several routers over one store: they choose as one would, and forget those that are gone."""

from __future__ import annotations

import random

import pytest

from kvroute.router.knowledge.sharing.memory_store import MemoryStore
from kvroute.router.knowledge.sharing.sharing import Settings
from kvroute.router.knowledge.sharing.store import EntryId
from kvroute.scorers.contract import Column, Request
from tests.router.core.deciding import prompt
from tests.router.knowledge.sharing.routers import Clock, Router, talk


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock)


async def started(store: MemoryStore, clock: Clock, count: int, replicas: int = 2) -> list[Router]:
    routers = [Router(store, clock, id + 1, replicas) for id in range(count)]
    for router in routers:
        await router.begin()
    for router in routers:
        await router.hear()
    return routers


async def test_a_request_of_one_router_is_load_for_the_other(store: MemoryStore, clock: Clock) -> None:
    """Its prefill is queued there, then it decodes there, then it is gone, blocks aside."""
    one, other = await started(store, clock, 2)
    request = prompt("a" * 1000)
    decision = one.decide(request)
    row = decision.replica.row
    await talk(one, other)
    assert other.column(Column.QUEUED_TOKENS)[row] == 1000.0
    assert len(other.sharing.foreign) == 1
    one.deciding.ledger.first_output(decision.lease, clock())
    await talk(one, other)
    assert (other.column(Column.QUEUED_TOKENS)[row], other.column(Column.DECODING)[row]) == (0.0, 1.0)
    one.deciding.settle(request, decision, clock(), completed=True, output_tokens=10)
    await talk(one, other)
    assert other.column(Column.REQUESTS) == [0.0, 0.0]
    assert other.deciding.index.depths(request.keys, [row]) == [len(request.keys)]
    assert other.column(Column.CACHED_TOKENS)[row] == one.column(Column.CACHED_TOKENS)[row]


async def test_a_dead_routers_load_is_gone_after_its_time(store: MemoryStore, clock: Clock) -> None:
    """A router that was killed says nothing more; its leases end when its beats have been missing for the TTL."""
    one, other = await started(store, clock, 2)
    one.decide(prompt("a" * 1000))
    await talk(one, other)
    for _ in range(3):
        clock.now += 0.5
        await other.beat()
        await other.hear()
    assert len(other.sharing.foreign) == 1
    clock.now += 0.5
    await other.beat()
    assert len(other.sharing.foreign) == 0
    assert other.column(Column.REQUESTS) == [0.0, 0.0]


async def test_a_paused_routers_load_comes_back_with_it(store: MemoryStore, clock: Clock) -> None:
    """A router that was stopped and goes on is given up and then believed again, without a word of its own."""
    one, other = await started(store, clock, 2)
    one.decide(prompt("a" * 1000))
    await talk(one, other)
    clock.now += 5.0
    await other.beat()
    assert len(other.sharing.foreign) == 0
    await one.beat()
    await talk(one, other)
    assert len(other.sharing.foreign) == 1
    assert sum(other.column(Column.QUEUED_TOKENS)) == 1000.0


async def test_a_router_that_leaves_says_so(store: MemoryStore, clock: Clock) -> None:
    """After a clean end nothing is left of its load, at once."""
    one, other = await started(store, clock, 2)
    one.decide(prompt("a" * 1000))
    await talk(one, other)
    await one.sharing.close()
    await other.hear()
    assert (len(other.sharing.foreign), len(other.sharing.peers)) == (0, 0)


async def test_a_restarted_router_is_warm_at_its_first_decision(store: MemoryStore, clock: Clock) -> None:
    """What its forerunner sent is in the Streams, and so known before the first request; its dead load is not."""
    (one,) = await started(store, clock, 1, replicas=4)
    chats = [prompt(f"chat {i} " + "x" * 500) for i in range(40)]
    places = {}
    for chat in chats:
        clock.now += 0.1
        decision = one.decide(chat)
        places[chat.keys[0]] = decision.replica.name
        one.end(chat, decision, output_tokens=20)
    one.decide(prompt("never ended" * 100))
    await one.tell()
    clock.now += 3.0
    again = Router(store, clock, 2, replicas=4)
    await again.begin()
    assert again.column(Column.REQUESTS) == [0.0] * 4
    for chat in chats:
        decision = again.decide(chat)
        assert decision.replica.name == places[chat.keys[0]]
        assert decision.hit_tokens > 0.9 * chat.tokens
        again.end(chat, decision)


def turns(conversations: int, requests: int, seed: int) -> list[Request]:
    """Multi-turn traffic: every turn repeats its conversation so far."""
    rng = random.Random(seed)
    texts = [f"system prompt {i % 5} " * 20 + f"conversation {i} " for i in range(conversations)]
    found = []
    for _ in range(requests):
        i = rng.randrange(conversations)
        texts[i] += f"turn {rng.random()} " * rng.randrange(5, 15)
        found.append(prompt(texts[i]))
    return found


async def hit_rate(routers: list[Router], traffic: list[Request]) -> float:
    """Cached share of all prompt tokens, requests going to the routers in turn; 8 of them run at a time."""
    clock = routers[0].clock
    running = []
    hits = 0.0
    for i, request in enumerate(traffic):
        clock.now += 0.02
        router = routers[i % len(routers)]
        decision = router.decide(request)
        hits += decision.hit_tokens
        running.append((router, request, decision))
        if len(running) == 8:
            router, request, decision = running.pop(0)
            router.end(request, decision, output_tokens=30)
        await talk(*routers)
    return hits / sum(request.tokens for request in traffic)


async def test_two_routers_choose_as_one_would(clock: Clock) -> None:
    """The hit rate of traffic that is split between two routers is within 2 % of what one router makes of it."""
    traffic = turns(60, 1200, seed=3)
    rates = []
    for count in (1, 2, 3):
        rates.append(await hit_rate(await started(MemoryStore(clock), clock, count, replicas=4), traffic))
    assert rates[0] > 0.5
    assert rates[1] == pytest.approx(rates[0], rel=0.02)
    assert rates[2] == pytest.approx(rates[0], rel=0.02)


async def test_a_burst_herds_no_more_than_one_flush_interval(store: MemoryStore, clock: Clock) -> None:
    """Equal requests that arrive at both routers within one interval may go to the same replica; the next ones know."""
    one, other = await started(store, clock, 2, replicas=4)
    interval = 6  # requests at each router before it is heard of
    for i in range(10):
        for router in (one, other):
            for j in range(interval):
                router.decide(prompt(f"{i} {router.sharing.router} {j} " + "x" * 2000))
        await talk(one, other)
        loads = one.column(Column.REQUESTS)
        assert loads == other.column(Column.REQUESTS)
        assert sum(loads) == 2 * interval * (i + 1)
        assert max(loads) - min(loads) <= 2 * interval


async def test_a_replica_that_left_holds_no_foreign_lease(store: MemoryStore, clock: Clock) -> None:
    """Its row can be used anew at once; what comes late of it changes nothing."""
    one, other = await started(store, clock, 2)
    request = prompt("a" * 1000)
    decision = one.decide(request)
    await talk(one, other)
    replica = other.deciding.fleet.get(decision.replica.name)
    assert replica is not None
    assert replica.open == 1
    other.sharing.left(replica.name)
    assert (replica.open, len(other.sharing.foreign)) == (0, 0)
    one.end(request, decision)
    await talk(one, other)
    other.sharing.joined(replica.name)
    await other.sharing.warming.warm_up()
    assert (replica.open, len(other.sharing.foreign)) == (0, 0)


async def test_the_stream_of_requests_is_bounded_in_bytes(store: MemoryStore, clock: Clock) -> None:
    """However many requests there are, the store keeps the newest of them only, as many as fit."""
    settings = Settings(tail_bytes=600_000)
    one = Router(store, clock, 1, 2, settings)
    await one.begin()
    for i in range(300):
        request = prompt(f"{i} " + "x" * 16_000)
        one.end(request, one.decide(request))
        await talk(one)
    held = 0
    for name in ("r0", "r1"):
        entries = (await store.read({f"{{kvroute:{name}}}:expected": EntryId()}, block_ms=0, count=10_000)).popitem()[1]
        held += sum(len(entry.fields[b"r"]) for entry in entries)
    assert 300_000 < held < 620_000


async def test_a_store_whose_clock_went_back_is_read_anew(clock: Clock) -> None:
    """New entries have smaller ids than those heard before: own beats that never come back show it."""
    server_clock = Clock()
    store = MemoryStore(server_clock)
    one, other = await started(store, clock, 2)
    one.decide(prompt("a" * 1000))
    await talk(one, other)
    server_clock.now -= 3600.0
    store.flush()
    one.decide(prompt("b" * 1000))
    for _ in range(12):
        clock.now += 0.5
        server_clock.now += 0.5
        for router in (one, other):
            await router.beat()
            await router.sharing.warming.warm_up()
        await talk(one, other)
    assert len(other.sharing.foreign) == 2
    assert len(other.sharing.peers) == 1


async def test_what_waits_is_told_when_the_store_is_back(store: MemoryStore, clock: Clock) -> None:
    """What was sent while the store was away is told afterwards, too: in the end both caches look the same."""
    one, other = await started(store, clock, 2)
    requests = [prompt(f"{i} " * 100) for i in range(30)]
    for request in requests:
        one.end(request, one.decide(request), output_tokens=5)
    assert len(one.sharing.log) == 90
    clock.now += 30.0
    for router in (one, other, one, other):
        await router.beat()
    await talk(one, other)
    for request in requests:
        assert other.deciding.index.depths(request.keys, [0, 1]) == one.deciding.index.depths(request.keys, [0, 1])
    assert (other.column(Column.REQUESTS), len(other.sharing.foreign)) == ([0.0, 0.0], 0)
