"""The prefix cache of one replica."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.simulator.engine.cache import PrefixCache


def _fill(cache: PrefixCache, keys: list[int]) -> list[int]:
    """Take and store one block per key, pinned."""
    removed: list[int] = []
    blocks = cache.take(len(keys), removed)
    for block, key in zip(blocks, keys, strict=True):
        cache.store([block], key)
    return blocks


def test_one_block_is_the_engines_own() -> None:
    """Of the blocks that the engine reports one is never used, as in vLLM."""
    assert PrefixCache(10, 16).capacity == 9
    with pytest.raises(ValueError, match="at least 2 blocks"):
        PrefixCache(1, 16)


def test_matches_the_longest_prefix_up_to_a_limit() -> None:
    """A lookup stops at the first unknown key, and at the caller's limit."""
    cache = PrefixCache(10, 16)
    blocks = _fill(cache, [1, 2, 3])
    assert cache.match([1, 2, 9, 3], 4) == blocks[:2]
    assert cache.match([1, 2, 3], 2) == blocks[:2]
    assert cache.match([9, 1], 2) == []


def test_evicts_the_tail_of_the_oldest_chain_first() -> None:
    """Released chains go in the order of their release, each from its end; unused blocks go before any of them."""
    cache = PrefixCache(8, 16)
    first, second = _fill(cache, [1, 2, 3]), _fill(cache, [4, 5, 6])
    cache.release(second)
    cache.release(first)
    removed: list[int] = []
    cache.take(6, removed)
    assert removed == [6, 5, 4, 3, 2]


def test_pinned_blocks_are_never_taken() -> None:
    """What a running request holds does not count as room, even when another request shares it."""
    cache = PrefixCache(4, 16)
    blocks = _fill(cache, [1, 2])
    cache.pin(blocks)
    cache.release(blocks)
    assert cache.free_blocks == 1
    assert not cache.fits([], 2)
    assert cache.fits(blocks, 1)
    cache.release(blocks)
    assert cache.fits([], 3)
    assert not cache.fits(blocks, 2)


def test_copies_are_kept_and_forgotten_one_by_one() -> None:
    """Equal content may stand in several blocks; the key is known until the last of them is gone."""
    cache = PrefixCache(3, 16)
    first, second = _fill(cache, [7]), _fill(cache, [7])
    assert cache.cached_blocks == 2
    cache.release(first)
    cache.release(second)
    removed: list[int] = []
    cache.take(1, removed)
    assert removed == [7]
    assert cache.match([7], 1) == second
    cache.take(1, removed)
    assert removed == [7, 7]
    assert cache.match([7], 1) == []


def test_a_reset_waits_for_running_requests() -> None:
    """The cache is not forgotten under a request that runs; afterwards nothing is found, and all room is there."""
    cache = PrefixCache(4, 16)
    blocks = _fill(cache, [1, 2])
    assert not cache.reset()
    cache.release(blocks)
    assert cache.reset()
    assert cache.match([1, 2], 2) == []
    assert cache.free_blocks == 3
    removed: list[int] = []
    cache.take(3, removed)
    assert removed == []


@given(st.lists(st.tuples(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.booleans()), max_size=40))
def test_blocks_are_conserved(chains: list[tuple[list[int], bool]]) -> None:
    """Whatever runs and ends, every block is free or pinned, and stored minus removed is what is cached."""
    cache = PrefixCache(9, 16)
    held: list[list[int]] = []
    stored = 0
    removed: list[int] = []
    for keys, ends in chains:
        matched = cache.match(keys, len(keys) - 1)
        if not cache.fits(matched, len(keys) - len(matched)):
            if held:
                cache.release(held.pop(0))
            continue
        cache.pin(matched)
        fresh = cache.take(len(keys) - len(matched), removed)
        for block, key in zip(fresh, keys[len(matched) :], strict=True):
            cache.store([block], key)
            stored += 1
        held.append(matched + fresh)
        if ends:
            cache.release(held.pop(0))
        assert cache.pinned_blocks == len({block for blocks in held for block in blocks})
        assert cache.cached_blocks == stored - len(removed)
        assert cache.cached_blocks <= cache.capacity
