"""Occupancy holds what an engine's cache would hold, and repairs itself by what engines report."""

from __future__ import annotations

import gc
import math
import random
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.core.index import Index
from kvroute.router.core.occupancy import UNKNOWN_CAPACITY, Occupancy, Pin
from tests.router.core.plaincache import BLOCK, PlainCache, Use

Chain = tuple[int, ...]


def keys(chain: Sequence[int]) -> list[int]:
    """Chained keys of a prompt whose blocks are small symbols."""
    value, out = 1, []
    for symbol in chain:
        value = (value * 6_364_136_223_846_793_005 + symbol + 1) & (2**64 - 1)
        out.append(value)
    return out


def depth(index: Index, prompt: list[int], row: int = 0) -> int:
    """How many leading blocks the index says that a row holds."""
    out = np.zeros(row + 1)
    index.lookup(prompt, out)
    return int(out[row])


chains = st.lists(st.integers(0, 2), max_size=9).map(tuple)
arrivals = st.tuples(st.just("reserve"), chains, st.integers(0, 20))
releases = st.tuples(st.just("release"), st.integers(0, 9), st.integers(0, 40))
failures = st.tuples(st.just("fail"), st.integers(0, 9), st.just(0))
reports = st.tuples(st.just("report"), st.integers(0, 9), st.integers(0, 9))
resizes = st.tuples(st.just("resize"), st.integers(3, 40), st.just(0))
histories = st.lists(
    st.one_of(arrivals, arrivals, arrivals, releases, releases, failures, reports, resizes), max_size=60
)


@given(histories, st.integers(5, 40))
@settings(max_examples=400, deadline=None)
def test_segments_behave_as_single_blocks_would(history: list[tuple[str, Chain | int, int]], size: int) -> None:
    """Through any arrivals, ends, failures, reports and changes of capacity: the same blocks, pins and tokens."""
    index = Index()
    occupancy, plain = Occupancy(index, doubt=0.0), PlainCache(size * BLOCK)
    occupancy.set_capacity(0, size * BLOCK)
    running: list[tuple[Pin, Use]] = []
    seen: set[Chain] = set()
    for action, what, amount in history:
        if isinstance(what, tuple):
            tokens = len(what) * BLOCK + amount - 4
            seen.update(what[: i + 1] for i in range(len(what)))
            running.append((occupancy.reserve(0, keys(what), BLOCK, tokens), plain.reserve(what, tokens)))
            assert running[-1][0].hit == running[-1][1].hit
        elif action == "resize":
            occupancy.set_capacity(0, what * BLOCK)
            plain.capacity = what * BLOCK
            plain.evict(0)
        elif running:
            pin, use = running[what % len(running)]
            if action == "report":
                occupancy.reported(pin, amount * BLOCK)
                plain.reported(use, amount * BLOCK)
            else:
                running.remove((pin, use))
                occupancy.release(pin, amount, action == "release", 0.0)
                plain.release(use, amount, action == "release")
        held = {chain for chain in seen if index.holds(0, keys(chain)[-1])}
        assert held == set(plain.blocks)
        assert index.blocks(0) == len(held)
        assert occupancy.cached_tokens(0) == plain.cached
        assert occupancy.active_tokens(0) == plain.active
    for pin, _ in running:
        occupancy.release(pin, 0, completed=True, now=0.0)
    assert occupancy.active_tokens(0) == 0


def test_a_running_request_is_never_evicted() -> None:
    """Blocks in use stay although the cache overflows; they go first when released, the end of the chain first."""
    index = Index()
    occupancy = Occupancy(index)
    occupancy.set_capacity(0, 4 * BLOCK)
    one, other = keys([1, 1, 1]), keys([2, 2, 2])
    first = occupancy.reserve(0, one, BLOCK, 3 * BLOCK)
    second = occupancy.reserve(0, other, BLOCK, 3 * BLOCK)
    assert (depth(index, one), depth(index, other)) == (3, 3)
    occupancy.release(first, 0, completed=True, now=0.0)
    assert (depth(index, one), depth(index, other)) == (1, 3)
    occupancy.release(second, 2 * BLOCK, completed=True, now=0.0)
    assert (depth(index, one), depth(index, other)) == (0, 3)


def test_a_request_that_failed_takes_back_only_what_it_alone_promised() -> None:
    """Blocks confirmed before, or expected by somebody else still running, stay."""
    index = Index()
    occupancy = Occupancy(index)
    occupancy.release(occupancy.reserve(0, keys([1]), BLOCK, BLOCK), 0, completed=True, now=0.0)
    alone = occupancy.reserve(0, keys([1, 2, 3]), BLOCK, 3 * BLOCK)
    other = occupancy.reserve(0, keys([1, 2, 4]), BLOCK, 3 * BLOCK)
    occupancy.release(alone, 0, completed=False, now=0.0)
    assert (depth(index, keys([1, 2, 3])), depth(index, keys([1, 2, 4]))) == (2, 3)
    occupancy.release(other, 0, completed=False, now=0.0)
    assert depth(index, keys([1, 2, 4])) == 1
    assert occupancy.cached_tokens(0) == BLOCK


def test_a_dropped_replica_voids_its_pins() -> None:
    """After a restart the replica holds nothing, and the end of an old request brings nothing back."""
    index = Index()
    occupancy = Occupancy(index)
    pin = occupancy.reserve(2, keys([1, 2]), BLOCK, 40)
    occupancy.drop(2)
    assert (index.blocks(2), occupancy.cached_tokens(2), occupancy.active_tokens(2)) == (0, 0.0, 0.0)
    again = occupancy.reserve(2, keys([1, 3]), BLOCK, 32)
    occupancy.release(pin, 10, completed=True, now=0.0)
    occupancy.reported(pin, 0)
    assert occupancy.active_tokens(2) == 32.0
    occupancy.release(again, 0, completed=True, now=0.0)
    occupancy.release(again, 50, completed=True, now=0.0)
    assert (index.blocks(2), occupancy.cached_tokens(2), occupancy.active_tokens(2)) == (2, 32.0, 0.0)


def test_a_conversation_costs_one_segment() -> None:
    """Turn after turn extends the same segment, so that a long conversation's reservation is its new blocks."""
    occupancy = Occupancy(Index())
    for turn in range(1, 60):
        pin = occupancy.reserve(0, keys(range(turn * 3)), BLOCK, turn * 3 * BLOCK + 5)
        occupancy.release(pin, BLOCK, completed=True, now=0.0)
    assert len(occupancy._replicas[0].heads) == 1
    assert occupancy.cached_tokens(0) == 59 * 3 * BLOCK + 5 + BLOCK


def test_a_report_by_share_is_not_disturbed_by_a_wrong_block_size() -> None:
    """With the engine's prompt size a full hit is a full hit, whatever we took a block for."""
    occupancy = Occupancy(Index())
    prompt = keys(range(20))
    occupancy.release(occupancy.reserve(0, prompt, 128.0, 2560), 0, completed=True, now=0.0)
    occupancy.reported(occupancy.reserve(0, prompt, 128.0, 2560), 1600, prompt_tokens=1610)
    assert (occupancy.shortfalls, occupancy.excesses) == (0, 0)
    occupancy.reported(occupancy.reserve(0, prompt, 128.0, 2560), 400, prompt_tokens=1610)
    occupancy.reported(occupancy.reserve(0, keys([9, 9, 9]), 128.0, 400), 300)
    assert (occupancy.shortfalls, occupancy.excesses) == (1, 1)
    assert occupancy.shortfall_tokens > 1800
    assert occupancy.excess_tokens == pytest.approx(300)


def test_uneven_text_is_no_shortfall() -> None:
    """A hit within a quarter of its prediction withdraws nothing: bytes per token vary within a prompt."""
    index = Index()
    occupancy = Occupancy(index)
    older, prompt = keys([7, 8]), keys(range(20))
    for chain in (older, prompt):
        occupancy.release(occupancy.reserve(0, chain, BLOCK, len(chain) * BLOCK), 0, completed=True, now=0.0)
    pin = occupancy.reserve(0, prompt, BLOCK, 20 * BLOCK)
    occupancy.reported(pin, 15 * BLOCK)
    assert (depth(index, older), occupancy.limit_tokens(0)) == (2, UNKNOWN_CAPACITY)
    occupancy.reported(pin, 13 * BLOCK)
    assert depth(index, older) == 0
    assert occupancy.limit_tokens(0) < UNKNOWN_CAPACITY


def test_the_limit_follows_reports_both_ways() -> None:
    """Shortfalls lower what a replica is taken to hold, whatever capacity is stated next; agreement raises it again."""
    occupancy = Occupancy(Index())
    occupancy.set_capacity(0, 1000 * BLOCK)
    prompt = keys(range(20))
    occupancy.release(occupancy.reserve(0, prompt, BLOCK, 20 * BLOCK), 0, completed=True, now=0.0)
    pin = occupancy.reserve(0, prompt, BLOCK, 20 * BLOCK)
    occupancy.reported(pin, 0)
    low = occupancy.limit_tokens(0)
    assert low == (1000 - 980 / 4) * BLOCK
    occupancy.reported(pin, 20 * BLOCK)
    assert low < occupancy.limit_tokens(0) < 1000 * BLOCK
    raised = occupancy.limit_tokens(0)
    occupancy.set_capacity(0, 900 * BLOCK)
    assert occupancy.limit_tokens(0) == raised
    occupancy.set_capacity(0, 500 * BLOCK)
    occupancy.set_capacity(0, 600 * BLOCK)
    assert occupancy.limit_tokens(0) == 600 * BLOCK


def _replay(seed: int, believed: int, real: int, *, report: bool) -> float:
    """Mean error of the predicted hit [blocks] in the later half of a run on a cache of another size."""
    rng = random.Random(seed)
    index = Index()
    occupancy, engine = Occupancy(index), PlainCache(real * BLOCK)
    occupancy.set_capacity(0, believed * BLOCK)
    talks = [[100 + talk] for talk in range(30)]
    errors = []
    for step in range(600):
        number = min(int(rng.expovariate(0.12)), len(talks) - 1)
        talk = talks[number]
        talk += [rng.randrange(50) for _ in range(2)]
        if len(talk) > 24:
            talk[:] = [1000 + step]
        predicted = depth(index, keys(talk))
        pin = occupancy.reserve(0, keys(talk), BLOCK, len(talk) * BLOCK)
        use = engine.reserve(tuple(talk), len(talk) * BLOCK)
        if report:
            occupancy.reported(pin, use.hit * BLOCK)
        occupancy.release(pin, 0, completed=True, now=0.0)
        engine.release(use, 0, completed=True)
        if step >= 300:
            errors.append(abs(predicted - use.hit))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("seed", range(5))
def test_reports_repair_a_capacity_believed_too_large(seed: int) -> None:
    """On a cache a third of the believed size, reports cut the errors to a third; on a known one none."""
    assert _replay(seed, 80, 80, report=True) == 0
    blind, told = (_replay(seed, 240, 80, report=report) for report in (False, True))
    assert told < blind / 3


def test_memory_is_flat_under_prompts_that_never_return() -> None:
    """200,000 ever-new prompts at a replica of unknown capacity leave as many blocks as fit the stated bound."""
    index = Index()
    occupancy = Occupancy(index)
    occupancy.set_capacity(0, float("inf"))
    rng = random.Random(1)
    sizes = []
    for number in range(200_000):
        pin = occupancy.reserve(0, [rng.getrandbits(64), rng.getrandbits(64)], 128.0, 300)
        occupancy.release(pin, 20, completed=True, now=0.0)
        if number % 50_000 == 49_999:
            gc.collect()
            replica = occupancy._replicas[0]
            sizes.append((index.blocks(0), len(replica.heads), len(replica.idle), sys.getallocatedblocks()))
    assert occupancy.cached_tokens(0) <= UNKNOWN_CAPACITY
    assert sizes[-1][:3] == sizes[0][:3]
    assert abs(sizes[-1][3] - sizes[0][3]) < 1000


def test_prompts_without_a_block_take_no_memory_each() -> None:
    """Short prompts have no keys; what they leave is one growing entry until a chain comes between."""
    occupancy = Occupancy(Index())
    for _ in range(1000):
        occupancy.release(occupancy.reserve(0, [], 128.0, 20), 5, completed=True, now=0.0)
    assert len(occupancy._replicas[0].idle) == 1
    assert occupancy.cached_tokens(0) == 25_000


@pytest.mark.parametrize("keyless", [False, True])
def test_prompts_that_return_take_no_memory_each_time(keyless: bool) -> None:
    """Whatever repeated prompts generate stays counted, in entries that do not grow in number."""
    occupancy = Occupancy(Index())
    prompts = [keys([1, 2]), [] if keyless else keys([3])]
    for number in range(5_000):
        prompt = prompts[number % 2]
        occupancy.release(occupancy.reserve(0, prompt, BLOCK, len(prompt) * BLOCK + 3), 4, completed=True, now=0.0)
    assert len(occupancy._replicas[0].idle) < 10
    assert occupancy.cached_tokens(0) == 5_000 * 7 + (2 if keyless else 3) * BLOCK


def test_what_repeated_prompts_generated_is_evicted_in_its_turn() -> None:
    """A prompt asked for again and again does not drive out a chain that was used later than most of its tails."""
    index = Index()
    occupancy = Occupancy(index)
    occupancy.set_capacity(0, 1000 * BLOCK)
    often, later = keys([1]), keys(range(10, 20))

    def ask(prompt: list[int]) -> None:
        occupancy.release(occupancy.reserve(0, prompt, BLOCK, len(prompt) * BLOCK), BLOCK, completed=True, now=0.0)

    for _ in range(900):
        ask(often)
    ask(later)
    for _ in range(600):
        ask(often)
    assert depth(index, later) == 10
    for _ in range(900):
        ask(often)
    assert (depth(index, later), depth(index, often)) == (0, 1)


def test_without_prefix_caching_nothing_is_held_after_a_request() -> None:
    """At a replica of no capacity prompts share nothing while they run, and leave nothing."""
    index = Index()
    occupancy = Occupancy(index)
    occupancy.set_capacity(0, 0.0)
    pins = [occupancy.reserve(0, keys([1, 2]), BLOCK, 2 * BLOCK + 5) for _ in range(3)]
    assert (index.blocks(0), [pin.hit for pin in pins]) == (0, [0, 0, 0])
    assert occupancy.active_tokens(0) == 3 * (2 * BLOCK + 5)
    for pin in pins:
        occupancy.release(pin, 7, completed=True, now=0.0)
    assert (occupancy.active_tokens(0), occupancy.cached_tokens(0)) == (0.0, 0.0)


def test_a_row_is_forgotten_wholly_when_its_replica_leaves() -> None:
    """The next replica on the row has the capacity that it states, and old pins change nothing there."""
    index = Index()
    occupancy = Occupancy(index)
    occupancy.set_capacity(0, 0.0)
    old = occupancy.reserve(0, keys([1]), BLOCK, BLOCK)
    occupancy.leave(0)
    assert occupancy.limit_tokens(0) == UNKNOWN_CAPACITY
    occupancy.reserve(0, keys([1]), BLOCK, BLOCK)
    occupancy.release(old, 50, completed=True, now=0.0)
    assert (index.blocks(0), occupancy.active_tokens(0), occupancy.cached_tokens(0)) == (1, BLOCK, BLOCK)
    occupancy.leave(3)


def test_what_events_tell_of_lapses_after_its_release() -> None:
    """Where KV events tell all, released blocks stay expected for a short while, running ones as long as they run."""
    index = Index()
    occupancy = Occupancy(index)
    occupancy.linger(0, 2.0, 0.0)
    chain = keys(range(6))
    one = occupancy.reserve(0, chain[:4], BLOCK, 4 * BLOCK)
    other = occupancy.reserve(0, chain, BLOCK, 6 * BLOCK)
    occupancy.release(one, 9, completed=True, now=10.0)
    occupancy.lapse(13.0)
    assert index.depths(chain, [0]) == [6]
    occupancy.release(other, 9, completed=True, now=20.0)
    occupancy.lapse(21.9)
    assert index.depths(chain, [0]) == [6]
    occupancy.lapse(22.0)
    assert (index.depths(chain, [0]), occupancy.cached_tokens(0)) == ([0], 0.0)


def test_a_block_used_again_does_not_lapse() -> None:
    """The time of a block's last release counts."""
    index = Index()
    occupancy = Occupancy(index)
    occupancy.linger(0, 2.0, 0.0)
    chain = keys(range(4))
    occupancy.release(occupancy.reserve(0, chain, BLOCK, 4 * BLOCK), 0, completed=True, now=0.0)
    occupancy.release(occupancy.reserve(0, chain, BLOCK, 4 * BLOCK), 0, completed=True, now=1.0)
    occupancy.lapse(2.5)
    assert index.depths(chain, [0]) == [4]


def test_the_lru_takes_over_when_events_stop() -> None:
    """Blocks that were not entered because events told of them are entered when events no longer do."""
    index = Index()
    occupancy = Occupancy(index)
    occupancy.linger(0, 2.0, 0.0)
    chain = keys(range(6))
    pin = occupancy.reserve(0, chain, BLOCK, 6 * BLOCK, known=4)
    assert index.blocks(0) == 2
    occupancy.linger(0, math.inf, 0.0)
    assert index.depths(chain, [0]) == [6]
    occupancy.release(pin, 0, completed=True, now=0.0)
    occupancy.lapse(1e9)
    assert index.depths(chain, [0]) == [6]


def test_a_cleared_cache_keeps_what_runs() -> None:
    """A reset takes idle blocks; those of running requests stay expected."""
    index = Index()
    occupancy = Occupancy(index)
    chain, other = keys(range(6)), keys(range(10, 14))
    occupancy.reserve(0, chain, BLOCK, 6 * BLOCK)
    occupancy.release(occupancy.reserve(0, other, BLOCK, 4 * BLOCK), 0, completed=True, now=0.0)
    occupancy.idle(0)
    assert (index.depths(chain, [0]), index.depths(other, [0])) == ([6], [0])


def test_what_the_lru_held_lapses_when_events_come_back() -> None:
    """The estimate of the time without events ends soon after they tell all again."""
    index = Index()
    occupancy = Occupancy(index)
    chain = keys(range(4))
    occupancy.release(occupancy.reserve(0, chain, BLOCK, 4 * BLOCK), 0, completed=True, now=0.0)
    occupancy.linger(0, 2.0, 100.0)
    occupancy.lapse(101.0)
    assert index.depths(chain, [0]) == [4]
    occupancy.lapse(102.0)
    assert index.depths(chain, [0]) == [0]
