"""Two router processes that share what they know choose as one would, and each can do without the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.system.chats import Chats
from tests.system.stage import Router, Stage, staged, text, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
log = logging.getLogger(__name__)
ENGINES = 4
NO_EVENTS = {"knowledge": {"kv_events": "off"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(folder: str) -> AsyncIterator[Stage]:
    """Four engines."""
    async with staged(ENGINES, folder) as made:
        yield made


async def one_and_two(stage: Stage, about: str, one: list[Router], two: list[Router]) -> tuple[float, float]:
    """Hit rates of the same traffic through one router and through two."""
    rates = []
    for routers in (one, two):
        chats, meter = Chats(f"{about} {len(routers)}"), stage.hit_rate()
        await chats.hold(routers)
        assert {reply.status for reply in chats.replies} == {200}
        rates.append(meter.now())
    return rates[0], rates[1]


async def test_two_routers_with_events_find_as_much_as_one(stage: Stage) -> None:
    """The engines' hit rate is a single router's, to within 2 %."""
    routers = await asyncio.gather(stage.router(), stage.router(redis="both"), stage.router(redis="both"))
    await asyncio.gather(*(until(router.exact) for router in routers))
    one, two = await one_and_two(stage, "events", [routers[0]], [*routers[1:]])
    log.warning("with events: one router %.4f, two that share %.4f", one, two)
    stage.end(*routers)
    assert two >= 0.98 * one


async def test_two_routers_without_events_find_as_much_as_one(stage: Stage) -> None:
    """What each has sent is enough for the other; two that do not share find far less."""
    shared = (stage.router(redis="sent", **NO_EVENTS) for _ in range(2))
    alone = (stage.router(**NO_EVENTS) for _ in range(2))
    routers = await asyncio.gather(*shared, *alone)
    one, two = await one_and_two(stage, "sent", [routers[2]], [*routers[:2]])
    _, apart = await one_and_two(stage, "apart", [routers[2]], [*routers[2:]])
    log.warning("without events: one router %.4f, two that share %.4f, two that do not %.4f", one, two, apart)
    stage.end(*routers)
    assert two >= 0.98 * one
    assert apart < 0.95 * one
