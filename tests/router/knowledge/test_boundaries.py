"""Hashing taken up at a boundary equals hashing the whole, and what is remembered is bounded."""

from __future__ import annotations

import gc
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.core import blocks
from kvroute.router.knowledge.boundaries import PAGE_BYTES, SMALL_BYTES, Boundaries

lengths = st.one_of(st.integers(0, 40), st.integers(500, 6000), st.sampled_from([PAGE_BYTES, 2 * PAGE_BYTES + 3]))
pieces = st.tuples(st.integers(0, 2), lengths).map(lambda made: bytes([65 + made[0]]) * made[1])
talks = st.lists(st.lists(pieces, max_size=6), min_size=1, max_size=8)


def whole(root: int, prompt: list[bytes], size: int) -> list[int]:
    """The keys of a prompt hashed at once."""
    return blocks.extend(root, b"".join(prompt), size)


@given(talks, st.sampled_from([64, 512, 1000]), st.integers(1, 12), st.integers(1, 80))
@settings(max_examples=150, deadline=None)
def test_taking_up_equals_hashing_the_whole(prompts: list[list[bytes]], size: int, most: int, room: int) -> None:
    """Whatever prompts came before, also when most of them are forgotten again: the same keys."""
    known = Boundaries(size, most, room)
    for turn in range(len(prompts)):
        for prompt in (prompts[turn], prompts[turn - 1] + prompts[turn]):
            for root in (1, 2):
                keys = known.keys(root, prompt, sum(map(len, prompt)))
                assert keys == whole(root, prompt, size)
        assert len(known) <= most
        assert known.blocks <= room or len(known) <= 1


def test_answers_are_not_shared_with_later_turns() -> None:
    """A list of keys once given does not grow when the conversation goes on."""
    known = Boundaries(512)
    first = [b"a" * 3000, b"b" * 3000]
    keys = known.keys(0, first, 6000)
    kept = list(keys)
    known.keys(0, [*first, b"c" * 3000], 9000)
    known.keys(0, [*first, b"d" * 3000], 9000)
    assert keys == kept


def test_a_next_turn_hashes_only_what_is_new() -> None:
    """Behind the deepest known boundary only new bytes are cut into blocks."""
    known = Boundaries(512)
    talk = [bytes([i]) * 2000 for i in range(20)]
    known.keys(0, talk, 40_000)
    before = known.blocks
    known.keys(0, [*talk, b"x" * 2000], 42_000)
    assert known.blocks - before == 42_000 // 512 - 40_000 // 512


def test_memory_is_bounded_under_prompts_that_never_return() -> None:
    """Boundaries and the keys behind them stay within their bounds, and the keys of forgotten chains are freed."""
    known = Boundaries(512, most=50, most_blocks=400)
    rng = random.Random(1)
    for _ in range(400):
        size = rng.randrange(SMALL_BYTES, 40_000)
        known.keys(0, [rng.randbytes(size // 2), rng.randbytes(size - size // 2)], size)
        assert len(known) <= 50
        assert known.blocks <= 400
    gc.collect()
    chains = {id(boundary.chain): boundary.chain for boundary in known._known.values()}
    assert known.blocks == sum(len(chain.keys) for chain in chains.values())


def test_a_long_prompt_that_parts_late_shares_its_beginning() -> None:
    """Pages let one long message be taken up in its middle."""
    known = Boundaries(512)
    text = random.Random(2).randbytes(4 * PAGE_BYTES)
    known.keys(0, [text], len(text))
    before = known.blocks
    known.keys(0, [text[:-10] + b"0123456789"], len(text))
    assert known.blocks - before == len(text) // 512  # a chain of its own, as it branches off
    other = known.keys(0, [text[: 2 * PAGE_BYTES] + b"y" * 600], 2 * PAGE_BYTES + 600)
    assert other == whole(0, [text[: 2 * PAGE_BYTES] + b"y" * 600], 512)
