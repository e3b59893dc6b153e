"""The cache in stretches against the cache in blocks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kvroute.simulator.engine.cache import PrefixCache
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.radix import RadixCache
from kvroute.simulator.engine.runner import Runner
from kvroute.simulator.engine.sequence import EngineRequest
from tests.simulator.engine.scripts import keys


class _Held(NamedTuple):
    runner: Runner
    blocks: list[int]


class _Pair:
    """Both caches, to which the same is done; all that they answer must agree."""

    def __init__(self, blocks: int, each: int) -> None:
        self.each = each
        self.blocks = PrefixCache(blocks, 1, each)
        self.radix = RadixCache(blocks, each)
        self.held: list[_Held] = []

    def hold(self, chain: tuple[int, ...], most: int) -> None:
        """A request: as much of its chain as is cached, and room for the rest if there is any."""
        matched = self.blocks.match(chain, most)
        hit, path, idle = self.radix.match(chain, most)
        assert hit * self.each == len(matched)
        fresh = (len(chain) - hit) * self.each
        fits = self.blocks.fits(matched, fresh)
        assert fits == (fresh + idle * self.each <= self.radix.free_blocks)
        if not fits:
            return
        runner = Runner(EngineRequest("", 1, 1, chain), 0.0)
        self.blocks.pin(matched)
        self.radix.pin(runner, path, hit)
        runner.stored = hit
        removed: list[int] = []
        gone: list[int] = []
        matched += self.blocks.take(fresh, removed)
        self.radix.blank -= fresh
        if self.radix.blank < 0:
            self.radix.evict(gone)
        assert gone == removed
        self.held.append(_Held(runner, matched))

    def fill(self, one: _Held, count: int) -> None:
        """The next keys of a request are full."""
        chain = one.runner.request.keys
        full = min(one.runner.stored + count, len(chain))
        if full > one.runner.stored:
            for index in range(one.runner.stored, full):
                self.blocks.store(one.blocks[index * self.each : (index + 1) * self.each], chain[index])
            self.radix.store(one.runner, chain, one.runner.stored, full)
            one.runner.stored = full

    def release(self, one: _Held) -> None:
        """A request is over."""
        self.blocks.release(one.blocks)
        self.radix.release(one.runner, len(one.blocks) - one.runner.stored * self.each)


_CHAINS = st.tuples(st.integers(0, 1), st.tuples(st.integers(0, 5), st.integers(0, 2)), st.integers(1, 9))
_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), _CHAINS, st.booleans()),
        st.tuples(st.just("fill"), st.integers(0, 9), st.integers(1, 6)),
        st.tuples(st.just("release"), st.integers(0, 9), st.none()),
    ),
    max_size=60,
)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.integers(12, 60), st.integers(1, 3), _OPERATIONS)
def test_it_is_the_cache_of_blocks(blocks: int, each: int, operations: list[tuple[str, object, object]]) -> None:
    """Same hits, same room, same evictions in the same order, copies of equal content included."""
    pair = _Pair(blocks, each)
    for kind, what, how in operations:
        if kind == "hold":
            assert isinstance(what, tuple)
            chain = keys(*what)
            pair.hold(chain, len(chain) - int(bool(how)))
        elif pair.held:
            assert isinstance(what, int)
            one = pair.held[what % len(pair.held)]
            if kind == "fill":
                assert isinstance(how, int)
                pair.fill(one, how)
            else:
                pair.release(one)
                pair.held.remove(one)
        assert pair.radix.free_blocks == pair.blocks.free_blocks
        assert pair.radix.pinned_blocks == pair.blocks.pinned_blocks
    for one in pair.held:
        pair.release(one)
    assert pair.radix.idle_keys * each == pair.blocks.cached_blocks
    assert pair.radix.blank + pair.radix.idle_keys * each == pair.radix.capacity


def test_a_request_costs_stretches() -> None:
    """Turns of a conversation stay one run, however many there were; a fork splits it once."""
    cache = RadixCache(10_000)
    chain = tuple(range(1000))
    for turn in range(10, 1000, 10):
        runner = Runner(EngineRequest("", 1, 1), 0.0)
        hit, path, _ = cache.match(chain, turn)
        assert len(path) <= 1
        cache.pin(runner, path, hit)
        cache.blank -= turn - hit
        cache.store(runner, chain, hit, turn)
        cache.release(runner, 0)
    runner = Runner(EngineRequest("", 1, 1), 0.0)
    hit, path, _ = cache.match((*range(500), -1), 501)
    assert hit == 500
    cache.pin(runner, path, hit)
    assert len(cache.match(chain, 1000)[1]) == 2


def test_a_reset_waits_for_running_requests() -> None:
    """Content is forgotten at once where nobody holds any, and not at all where somebody does."""
    pair = _Pair(20, 1)
    pair.hold((1, 2, 3), 3)
    pair.fill(pair.held[0], 3)
    assert not pair.radix.reset()
    pair.release(pair.held[0])
    assert pair.radix.reset()
    assert pair.radix.match((1, 2, 3), 3)[0] == 0
    assert pair.radix.free_blocks == pair.radix.blank == 19


def test_what_is_no_cache_is_refused() -> None:
    """A cache of the null block alone, and keys of half a block, are errors."""
    with pytest.raises(ValueError, match="2 blocks"):
        RadixCache(1)
    with pytest.raises(ValueError, match="key_tokens"):
        _ = Limits(block_size=16, key_tokens=8).blocks_per_key
