"""The chat workload, driven against a stand-in engine without a router."""

from __future__ import annotations

import asyncio
import math

from kvroute.router.testing.chatload import ChatLoad, ChatResult, ChatShape
from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options

SHAPE = ChatShape(users=3, turns=3, system_words=60, question_words=30, answer_tokens=5, think_seconds=0.01)


async def test_conversations_grow_and_find_their_past() -> None:
    """Each turn sends the whole conversation, so that most prompt tokens are cached; every answer is told."""
    told: list[int] = []
    async with StandInEngine(Options(decode_rate=500)) as engine:

        def keep(result: ChatResult) -> None:
            told.append(len(result.turns))

        result = await ChatLoad(engine.url, SHAPE, seed=1).run(1.0, keep)
        assert engine.hit_tokens > 0.5 * engine.queried_tokens
        async with asyncio.timeout(5):
            while engine.running + engine.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert result.failures == 0
    assert told == list(range(1, len(result.turns) + 1))
    assert all(0 < turn.ttft <= turn.seconds for turn in result.turns)
    assert 0 < result.ttft(50) <= result.ttft(90)
    assert result.requests_per_second > 0


async def test_failures_are_counted_and_do_not_end_the_load() -> None:
    """A refused and a cut question count as failed; the user starts another conversation."""
    async with StandInEngine(Options(decode_rate=500)) as engine:
        engine.faults.fail_next(500)
        engine.faults.cut_next()
        result = await ChatLoad(engine.url, SHAPE, seed=1).run(1.0)
    assert result.failures == 2
    assert result.turns


async def test_nothing_answered_is_no_number() -> None:
    """Without a single answer percentiles are NaN and the rate is zero."""
    result = ChatResult()
    assert math.isnan(result.ttft(50))
    assert result.requests_per_second == 0
