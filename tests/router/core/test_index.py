"""The index answers longest prefixes as a naive model does."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.core.index import Index

Chain = tuple[int, ...]


def key(chain: Chain) -> int:
    """The key of the last block of a chain of small symbols, as a chained hash would give it."""
    value = 0
    for symbol in chain:
        value = (value * 1_000_003 + symbol + 1) & (2**64 - 1)
    return value


def keys(chain: Chain) -> list[int]:
    """The keys of all blocks of a chain."""
    return [key(chain[: i + 1]) for i in range(len(chain))]


class Naive:
    """A set of blocks per row, closed: with a block come its parents, without it its descendants go."""

    def __init__(self) -> None:
        self.rows: dict[int, set[Chain]] = {}

    def add(self, row: int, chain: Chain) -> None:
        self.rows.setdefault(row, set()).update(chain[: i + 1] for i in range(len(chain)))

    def cut(self, row: int, chain: Chain) -> list[Chain]:
        """Remove a block and all that hang on it."""
        gone = [held for held in self.rows.get(row, set()) if held[: len(chain)] == chain]
        self.rows.get(row, set()).difference_update(gone)
        return gone

    def depth(self, row: int, chain: Chain) -> int:
        depth = 0
        while depth < len(chain) and chain[: depth + 1] in self.rows.get(row, set()):
            depth += 1
        return depth


rows = st.sampled_from([0, 1, 2, 7, 64, 65, 299])
chains = st.lists(st.integers(0, 1), min_size=1, max_size=12).map(tuple)
steps = st.lists(st.tuples(st.sampled_from(["add", "add", "cut", "drop"]), rows, chains), max_size=40)


@given(steps, st.lists(chains, min_size=1, max_size=5))
@settings(max_examples=200)
def test_the_index_equals_a_naive_model(history: list[tuple[str, int, Chain]], asked: list[Chain]) -> None:
    """After any history of closed chains, prefixes, holders and counts are those of plain sets, to row 299."""
    index, naive = Index(), Naive()
    for action, row, chain in history:
        if action == "add":
            index.add(row, keys(chain))
            naive.add(row, chain)
        elif action == "cut":
            index.remove(row, [key(gone) for gone in naive.cut(row, chain)])
        else:
            index.drop(row)
            naive.rows.pop(row, None)
    out = np.full(300, 9.0)
    for chain in asked:
        index.lookup(keys(chain), out)
        assert out.tolist() == [naive.depth(row, chain) for row in range(300)]
        for row in (0, 65, 299):
            assert index.holds(row, key(chain)) == (chain in naive.rows.get(row, set()))
    for row in (0, 1, 2, 7, 64, 65, 299):
        assert index.blocks(row) == len(naive.rows.get(row, set()))
    assert len(index) == len(set().union(*naive.rows.values()) if naive.rows else set())


def test_an_empty_prompt_clears_the_answer() -> None:
    """No keys: every element of the answer is zero."""
    index = Index()
    index.add(1, [5])
    out = np.full(3, 7.0)
    index.lookup([], out)
    assert out.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("depths", [[0, 1, 2, 3], [128, 128, 128], [127, 128, 1], [0, 0, 0], [5, 77, 30, 77]])
def test_long_prompts_are_answered_for_all_depths(depths: list[int]) -> None:
    """Galloping finds each row's depth wherever the holders change."""
    index = Index()
    prompt = list(range(1000, 1128))
    for row, depth in enumerate(depths):
        index.add(row, prompt[:depth])
    out = np.zeros(len(depths))
    index.lookup(prompt, out)
    assert out.tolist() == depths


def test_adding_and_removing_twice_changes_nothing() -> None:
    """Both are idempotent, also for rows and blocks never heard of."""
    index = Index()
    index.add(0, [1, 2, 2])
    index.add(0, (1, 2))
    assert (index.blocks(0), len(index)) == (2, 2)
    index.add(3, [2])
    index.remove(0, [2, 2, 9])
    index.remove(5, [2])
    assert (index.blocks(0), index.blocks(3), len(index)) == (1, 1, 2)


def test_remembered_sets_of_holders_are_bounded() -> None:
    """A fleet whose holders change without end does not grow the memory of unpacked sets."""
    index = Index()
    out = np.zeros(13)
    for holders in range(1, 8192):
        for row in range(13):
            if holders >> row & 1:
                index.add(row, [holders])
        index.lookup([holders], out)
        assert int(sum(1 << row for row in np.flatnonzero(out))) == holders
    assert len(index._unpacked) <= 4096


def test_dropping_a_full_replica_is_quick() -> None:
    """A replica of 60,000 blocks among eight is dropped in one step that does not stall the event loop."""
    index = Index()
    for row in range(8):
        index.add(row, list(range(row << 32, (row << 32) + 60_000)))
    start = time.process_time()
    index.drop(3)
    assert time.process_time() - start < 0.25  # about 0.02 s on an idle machine
    assert index.blocks(3) == 0
    assert len(index) == 7 * 60_000
