"""Two router processes that share what they know choose as one would, and each can do without the other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from kvroute.router.testing import kvevents
from tests.system.chats import NEAR, Chats
from tests.system.stage import QUICK, Reply, Router, Stage, staged, text, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
log = logging.getLogger(__name__)
ENGINES = 4
SENT: dict[str, Any] = {
    # What was sent is all that is known, and rates stay at what they are told to be: prefill takes long.
    "knowledge": {"kv_events": "off"},
    "watch": {**QUICK["watch"], "scrape": {"interval": 60.0}},
}
SLOW_PREFILL: dict[str, Any] = {**SENT, "step": {"c3": 1e-3}}
BURST = 120


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(folder: str) -> AsyncIterator[Stage]:
    """Four engines."""
    async with staged(ENGINES, folder, speed=1.0, decode_rate=500.0, prefill_rate=10_000.0) as made:
        yield made


async def hit_rate(stage: Stage, about: str, routers: Sequence[Router]) -> float:
    """The engines' hit rate while conversations are held through these routers, which have learnt their speed."""
    await Chats(f"{about} first", conversations=8, turns=2).hold(routers)
    chats, meter = Chats(about, conversations=17, turns=5), stage.hit_rate()
    await chats.hold(routers)
    assert {reply.status for reply in chats.replies} == {200}
    return meter.now()


async def test_two_routers_with_events_find_as_much_as_one(stage: Stage) -> None:
    """The engines' hit rate is a single router's, as far as that can be told (see NEAR)."""
    routers = await asyncio.gather(stage.router(), stage.router(redis="both"), stage.router(redis="both"))
    await asyncio.gather(*(until(router.exact) for router in routers))
    one = await hit_rate(stage, "one, events", routers[:1])
    two = await hit_rate(stage, "two, events", routers[1:])
    log.info("with events: one router %.4f, two that share %.4f", one, two)
    stage.end(*routers)
    assert two >= NEAR * one


async def test_two_routers_without_events_find_as_much_as_one(stage: Stage) -> None:
    """What each has sent is enough for the other, to within 2 %; two that do not share find far less."""
    shared = (stage.router(redis="sent", **SENT) for _ in range(2))
    alone = (stage.router(**SENT) for _ in range(2))
    routers = await asyncio.gather(*shared, *alone)
    await asyncio.gather(*(until(router.settled) for router in routers))
    one = await hit_rate(stage, "one", routers[2:3])
    two = await hit_rate(stage, "two", routers[:2])
    apart = await hit_rate(stage, "apart", routers[2:])
    log.info("without events: one router %.4f, two that share %.4f, two that do not %.4f", one, two, apart)
    stage.end(*routers)
    assert two >= 0.98 * one
    assert apart < 0.97 * one


async def test_a_routers_death_loses_nothing(stage: Stage) -> None:
    """SIGKILL: within 5 s the other follows the engines in its place, its load is gone, and what the engines did in
    between is known to the block."""
    one, two = await asyncio.gather(stage.router(redis="dead"), stage.router(redis="dead"))
    await asyncio.gather(until(one.exact), until(two.exact))
    await until(lambda: shared_out(one, two))
    longest = [asyncio.create_task(one.ask(text(f"long {i}"), max_tokens=20_000)) for i in range(3)]
    await until(lambda: foreign(two, 3))
    followed = await one.follows()
    assert followed
    one.kill()
    killed = time.monotonic()
    gap = [text(f"in the gap {number}", 400) for number in range(8)]
    told = [
        await stage.tell(engine, words) for words, engine in zip(gap, [*stage.engines, *stage.engines], strict=True)
    ]
    assert {reply.status for reply in told} == {200}
    await until(lambda: foreign(two, 0))
    gone = time.monotonic() - killed
    await until(lambda: follows_all(two, stage))
    moved = time.monotonic() - killed
    log.info("a killed router's load is gone after %.2f s, its engines are followed after %.2f s", gone, moved)
    assert max(gone, moved) < 5.0
    assert [reply.status for reply in await asyncio.gather(*longest)] == [0, 0, 0]
    await until(lambda: observes(two, stage))
    for words in gap:
        reply = await two.ask(words)
        assert reply.foretold, reply
        assert reply.cached > 1000
    stage.end(two)


async def shared_out(one: Router, two: Router) -> bool:
    """Both follow some engine's events."""
    return bool(await one.follows()) and bool(await two.follows())


async def follows_all(router: Router, stage: Stage) -> bool:
    return len(await router.follows()) == len(stage.engines)


async def foreign(router: Router, count: int) -> bool:
    """Whether the router knows of so many open requests of others."""
    return bool((await router.sharing())["foreign"] == count)


async def observes(router: Router, stage: Stage) -> bool:
    """Whether it knows as many blocks of each engine as that holds."""
    held, replicas = stage.held(), await router.replicas()
    return all(replicas[name]["observed_blocks"]["gpu"] == count for name, count in held.items())


async def test_a_restarted_routers_first_decision_is_exact(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its predecessor's knowledge is in the store, which alone has it: the engines replay little."""
    monkeypatch.setattr(kvevents, "BUFFERED_BATCHES", 3)
    async with staged(2, stage.engines[0].options.model_folder or "", stage.redis) as small:
        before = await small.router(redis="again")
        await until(before.exact)
        prompts = [text(f"before {number}", 400) for number in range(8)]
        for words in prompts:
            await before.ask(words)
        await until(lambda: observes(before, small))
        before.kill()
        after = await small.router(redis="again")
        replies = [await after.ask(words) for words in prompts]
        assert all(reply.foretold and reply.cached > 1000 for reply in replies), replies
        await until(after.exact)


async def test_a_restarted_routers_first_decision_without_events_is_warm(stage: Stage) -> None:
    """What was sent is in the store, though no router is left."""
    before = await stage.router(redis="sent again", **SENT)
    await until(before.settled)
    prompts = [text(f"was sent {number}", 400) for number in range(8)]
    for words in prompts:
        await before.ask(words)
    await asyncio.sleep(0.1)  # a killed router need not have told what it sent in its last moments
    before.kill()
    after = await stage.router(redis="sent again", **SENT)
    replies = [await after.ask(words) for words in prompts]
    stage.end(after)
    assert all(reply.foretold and reply.cached > 1000 for reply in replies), replies


async def herd(stage: Stage, about: str, routers: Sequence[Router]) -> int:
    """Requests of a burst that follow a cached prefix before the first turns away from its replica's queue.

    One comes every 4 ms. No engine answers before all are there, so the queue is as long as the routers say.
    """
    prefix = {"role": "system", "content": text(about, 500)}
    first = await routers[0].ask([prefix])
    for router in routers:
        await until(lambda router=router: knows(router, prefix["content"]))  # type: ignore[misc]
    await stage.order("/pause")
    burst = asyncio.gather(*(_later(0.004 * n, routers[n % len(routers)], prefix, n) for n in range(BURST)))
    await until(lambda: stage.busy(BURST))
    await stage.order("/resume")
    replies = sorted(await burst, key=lambda reply: reply.began)
    assert {reply.status for reply in replies} == {200}
    return next((n for n, reply in enumerate(replies) if reply.replica != first.replica), BURST)


async def _later(seconds: float, router: Router, prefix: dict[str, str], number: int) -> Reply:
    await asyncio.sleep(seconds)
    return await router.ask([prefix, {"role": "user", "content": f"{number} {number} hello the ing what now"}])


async def knows(router: Router, prefix: str) -> bool:
    return await router.expects(prefix, role="system") > 1000


async def test_a_burst_split_between_two_routers_does_not_herd(stage: Stage) -> None:
    """They leave a hot replica's queue about where one router would; two that tell each other too late do not."""
    alone = stage.router(**SLOW_PREFILL)
    shared = (stage.router(redis="burst", **SLOW_PREFILL) for _ in range(2))
    late = (stage.router(redis="late", flush=1.0, **SLOW_PREFILL) for _ in range(2))
    routers = await asyncio.gather(alone, *shared, *late)
    await asyncio.gather(*(until(router.settled) for router in routers))
    one = await herd(stage, "one burst", routers[:1])
    two = await herd(stage, "two burst", routers[1:3])
    apart = await herd(stage, "late burst", routers[3:])
    log.info("requests before the first turns away: one router %d, two %d, two with a late flush %d", one, two, apart)
    stage.end(*routers)
    # Where all cores are busy what is told is heard later than a flush: 40 requests come in 0.16 s.
    assert two < min(apart, one + 40)
