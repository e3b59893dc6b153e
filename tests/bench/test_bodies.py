"""The benchmark's request bodies."""

from __future__ import annotations

import json
from statistics import mean

import pytest

from bench import bodies


@pytest.mark.parametrize("size", [1024, 16 * 1024, 64 * 1024])
def test_bodies_have_the_size_that_is_asked_for(size: int) -> None:
    """Chats are of the wanted size on average, and none is far from it."""
    sizes = [len(body) for body in bodies.chats(size, 4, 8, 1)]
    assert mean(sizes) == pytest.approx(size, rel=0.02)
    assert min(sizes) > size * 0.6
    assert max(sizes) < size * 1.4


def test_each_turn_extends_the_turn_before() -> None:
    """A conversation's next body starts with all messages of the one before; all share the system prompt."""
    made = [json.loads(body)["messages"] for body in bodies.chats(4096, 3, 4, 1)]
    for turn in range(3):
        for conversation in range(3):
            earlier = made[turn * 3 + conversation]
            later = made[(turn + 1) * 3 + conversation]
            assert later[: len(earlier)] == earlier
            assert len(later) == len(earlier) + 2
    assert len({json.dumps(messages[0]) for messages in made}) == 1


def test_same_seed_same_bytes() -> None:
    """Every router is sent the very same bodies."""
    assert list(bodies.chats(1024, 2, 2, 5)) == list(bodies.chats(1024, 2, 2, 5))
    assert list(bodies.fresh(1024, 2, 5)) == list(bodies.fresh(1024, 2, 5))


def test_fresh_prompts_begin_with_their_stamp() -> None:
    """Once stamped, two ever-new prompts share no block, for they differ from the first byte on."""
    for body in bodies.fresh(1024, 2, 5):
        assert json.loads(body)["messages"][0]["content"].startswith(bodies.STAMP)
