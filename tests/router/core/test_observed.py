"""What engines say that they hold: counts, mediums, many rows, snapshots, and nothing that leaks."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvroute.router.core import observed as observing
from kvroute.router.core.changes import Cleared, Medium, Removed, Stored, Words, apply
from kvroute.router.core.index import Index
from kvroute.router.core.observed import Observed
from tests.router.core.plainholdings import PlainHoldings

GPU, CPU = Medium.GPU, Medium.CPU
ROWS = (0, 1, 5, 64, 65, 299)
WORDS = (0, 1, 2, 3, 7, 2**30, 2**32, 2**63, 2**64 - 1, 2**64 - 2, *range(1000, 1012))


def words(*values: int) -> Words:
    """Words as they come from the decoder."""
    return np.array(values, np.uint64)


class Against(RuleBasedStateMachine):
    """Whatever is done to both, `Observed` and the plain dicts agree."""

    def __init__(self) -> None:
        super().__init__()
        self.observed = Observed(seed=11)
        self.plain = PlainHoldings()
        self.renamed = False
        """Whether a hash came with another key, which may be seen beside the one before until all is filed."""

    row = st.sampled_from(ROWS)
    medium = st.sampled_from((0, 0, 0, 1, 2))
    pairs = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(WORDS)), max_size=40)
    some = st.lists(st.sampled_from(WORDS), max_size=40)

    @rule(row=row, medium=medium, pairs=pairs)
    def store(self, row: int, medium: int, pairs: list[tuple[int, int]]) -> None:
        hashes, keys = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        known = dict(self.plain.keys.get((row, medium), {}))
        for hash_, key in pairs:
            self.renamed |= known.setdefault(hash_, key) != key
        self.observed.store(row, medium, words(*hashes), words(*keys))
        self.plain.store(row, medium, hashes, keys)

    @rule(row=row, medium=medium, hashes=some)
    def remove(self, row: int, medium: int, hashes: list[int]) -> None:
        assert self.observed.remove(row, medium, words(*hashes)) == self.plain.remove(row, medium, hashes)

    @rule(row=row)
    def clear(self, row: int) -> None:
        self.observed.clear(row)
        self.plain.clear(row)

    @rule(blocks=st.integers(1, 20))
    def sweep(self, blocks: int) -> None:
        self.observed.sweep(blocks)

    @rule(source=row, row=row)
    def load(self, source: int, row: int) -> None:
        self.observed.load(row, self.observed.contents(source))
        counts = {medium: Counter(held) for (at, medium), held in self.plain.counts.items() if at == source}
        keys = {medium: dict(held) for (at, medium), held in self.plain.keys.items() if at == source}
        self.plain.clear(row)
        self.plain.counts.update({(row, medium): held for medium, held in counts.items()})
        self.plain.keys.update({(row, medium): held for medium, held in keys.items()})

    @invariant()
    def blocks_are_counted(self) -> None:
        for row in ROWS:
            for medium in range(3):
                held = self.plain.keys.get((row, medium), {})
                fresh = self.observed._fresh[row].known if not medium and row in self.observed._fresh else {}
                assert len(held) <= self.observed.blocks(row, medium) <= len(held) + len(fresh)

    @invariant()
    def agree(self) -> None:
        observed, plain = self.observed, self.plain
        if self.renamed:
            assert all(plain.holders(key, {0}) & ~observed.holders(key) == 0 for key in WORDS)
            self.count()
        swept = not observed._past
        assert bool(observed) or not plain.distinct()
        for key in WORDS:
            assert observed.holders(key) == plain.holders(key, {0})
            assert observed.holders_within(key, CPU) == plain.holders(key, {0, 1})
            assert observed.holders_anywhere(key) == plain.holders(key, {0, 1, 2})
        assert observed.slow == any(medium and keys for (_, medium), keys in plain.keys.items()) or not swept
        for row in ROWS:
            held = {medium: keys for (at, medium), keys in plain.keys.items() if at == row and keys}
            for hash_ in WORDS[:4]:
                behind: set[int | None] = {known[hash_] for known in held.values() if hash_ in known}
                assert observed.key_of(row, hash_) in (behind or {None})
        keys = list(WORDS)
        last = 0
        for end, rows in observed.runs(keys):
            assert {plain.holders(key, {0}) for key in keys[last : end + 1]} == {rows}
            last = end + 1
        assert last == len(keys)

    @rule()
    def count(self) -> None:
        """Numbers of blocks and snapshots, for which all is filed."""
        observed, plain = self.observed, self.plain
        distinct = len(observed)
        assert distinct == plain.distinct() or (observed._past and observed.slow)
        for row in ROWS:
            held = {medium: keys for (at, medium), keys in plain.keys.items() if at == row and keys}
            assert observed.blocks(row) == sum(map(len, held.values()))
            for medium in range(3):
                assert observed.blocks(row, medium) == len(held.get(medium, ()))
            told = {
                medium: dict(zip(hashes.tolist(), zip(keys.tolist(), counts.tolist(), strict=True), strict=True))
                for medium, hashes, keys, counts in observed.contents(row)
            }
            assert told == {
                medium: {hash_: (key, plain.counts[row, medium][hash_]) for hash_, key in keys.items()}
                for medium, keys in held.items()
            }
        assert not observed._fresh
        self.renamed = False
        sets = {plain.holders(key, {medium}) for key in WORDS for medium in range(3)}
        assert len(observed._rowsets) == len(sets | {0}) or observed._past

    def teardown(self) -> None:
        for row in ROWS:
            self.observed.clear(row)
        while self.observed.sweep(7):
            pass
        assert len(self.observed) == 0
        assert not self.observed
        assert not self.observed._lives
        assert not any(table._doubles for table in self.observed._tables.values())
        assert len(self.observed._rowsets) == 1
        assert not self.observed._held


class AgainstManyAtOnce(Against):
    """The same where four blocks are enough to be entered at once, and eight to be filed."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(observing, "_BULK", 4)
        self.patch.setattr(observing, "FILE_BLOCKS", 8)

    def teardown(self) -> None:
        self.patch.undo()
        super().teardown()


TestAgainstManyAtOnce = AgainstManyAtOnce.TestCase
TestAgainstManyAtOnce.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAgainst = Against.TestCase
TestAgainst.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("calls", [1, 64, 1024, 20_000])
def test_large_tables_say_what_small_ones_do(calls: int) -> None:
    """Through growth, removals and refills of tens of thousands of blocks, every block is where it belongs."""
    rng = np.random.default_rng(5)
    observed = Observed(3)
    hashes = rng.integers(0, 2**64, 20_000, np.uint64)
    keys = hashes ^ np.uint64(12345)
    for row, part in ((0, 20_000), (70, 10_000)):
        for at in range(0, part, calls):
            chunk = slice(at, min(at + calls, part))
            observed.store(row, GPU, hashes[chunk], keys[chunk])
            assert observed.holders(int(keys[at])) >> row & 1
    for at in range(5_000, 15_000, calls):
        assert observed.remove(0, GPU, hashes[at : min(at + calls, 15_000)]) == 0
    expected = [1 | 1 << 70] * 5_000 + [1 << 70] * 5_000 + [0] * 5_000 + [1] * 5_000
    assert [observed.holders(key) for key in keys.tolist()] == expected
    assert len(observed) == 15_000
    observed.store(0, GPU, hashes, keys)
    assert observed.blocks(0) == 20_000
    observed.clear(0)
    assert [observed.holders(key) for key in keys.tolist()] == [1 << 70] * 10_000 + [0] * 10_000


def test_a_hash_stored_thrice_is_gone_after_three_removals() -> None:
    """The engine announces a block again when it computes it again, and takes back each announcement."""
    observed = Observed()
    observed.store(3, GPU, words(9, 9), words(5, 5))
    observed.store(3, GPU, words(9), words(5))
    for left in (1, 1, 0):
        assert observed.remove(3, GPU, words(9)) == 0
        assert bool(observed.holders(5)) == bool(left) or left
    assert observed.holders(5) == 0
    assert observed.remove(3, GPU, words(9)) == 1


def test_counts_stop_at_what_sixteen_bits_hold() -> None:
    """An engine that repeats itself without end can neither overflow a count nor grow anything."""
    observed = Observed()
    for _ in range(3):
        observed.store(0, GPU, np.full(30_000, 4, np.uint64), np.full(30_000, 8, np.uint64))
    ((_, _, _, counts),) = observed.contents(0)
    assert counts.tolist() == [65535]
    assert observed.remove(0, GPU, np.full(65_535, 4, np.uint64)) == 0
    assert (observed.holders(8), len(observed), observed.blocks(0)) == (0, 0, 0)


def test_the_newer_key_of_a_hash_wins() -> None:
    """A hash that comes with another key stands for that one, and the old key is held no longer once it is filed."""
    observed = Observed()
    observed.store(1, GPU, words(7), words(100))
    observed.store(1, GPU, words(7), words(200))
    assert (observed.key_of(1, 7), observed.holders(200), observed.blocks(1), len(observed)) == (200, 2, 1, 1)
    assert (observed.holders(100), observed.holders(200), observed.key_of(1, 7)) == (0, 2, 200)
    observed.remove(1, GPU, words(7, 7))
    assert len(observed) == 0


def test_a_key_with_two_hashes_is_held_until_both_are_gone() -> None:
    """Two engine hashes may stand for one key of ours; it is new once, and gone with the last."""
    observed = Observed()
    observed.store(1, GPU, words(7, 8), words(100, 100))
    observed.remove(1, GPU, words(7))
    assert observed.holders(100) == 2
    observed.remove(1, GPU, words(8))
    assert observed.holders(100) == 0


def test_mediums_are_apart() -> None:
    """A block in CPU memory is not on the GPU, and costs lookups nothing once it is gone."""
    observed = Observed()
    observed.store(0, GPU, words(1), words(10))
    assert not observed.slow
    observed.store(0, CPU, words(1, 2), words(10, 20))
    assert observed.slow
    assert (observed.holders(20), observed.holders_anywhere(20), len(observed)) == (0, 1, 2)
    observed.remove(0, GPU, words(1))
    assert (observed.holders(10), observed.holders_anywhere(10), observed.key_of(0, 1)) == (0, 1, 10)
    observed.remove(0, CPU, words(1, 2))
    assert not observed.slow
    assert len(observed) == 0


@pytest.mark.parametrize("rows", [65, 300])
def test_any_number_of_rows(rows: int) -> None:
    """Sets of holders have no width."""
    observed = Observed()
    for row in range(rows):
        observed.store(row, GPU, words(*range(row + 1)), words(*range(1000, 1001 + row)))
    assert observed.holders(1000) == (1 << rows) - 1
    assert observed.holders(1000 + rows - 1) == 1 << rows - 1
    keys = list(range(1000, 1000 + rows))
    assert [observed.depth(row, keys) for row in range(rows)] == list(range(1, rows + 1))
    for row in range(rows - 1):
        observed.clear(row)
    assert {observed.holders(key) for key in keys} == {1 << rows - 1}


@pytest.mark.parametrize("held", [0, 1, 2, 3, 31, 32, 33, 99, 100])
def test_depth_is_the_number_of_leading_blocks(held: int) -> None:
    """Galloping finds the same depth as a walk, whatever others hold."""
    observed = Observed()
    keys = np.arange(500, 600, dtype=np.uint64)
    observed.store(0, GPU, keys, keys)
    observed.store(1, GPU, keys[:held], keys[:held])
    assert observed.depth(1, keys.tolist()) == held
    assert observed.depth(2, keys.tolist()) == 0
    assert observed.depth(1, []) == 0


@pytest.mark.parametrize("seed", range(12))
def test_long_lookups_say_what_a_walk_says(seed: int) -> None:
    """A long prompt with many different depths, partly expected and partly observed, is measured as by a plain walk."""
    rng = np.random.default_rng(seed)
    index = Index(Observed(seed))
    rows, length = 70, 600
    prompt = rng.integers(0, 2**64, length, np.uint64)
    keys = prompt.tolist()
    out = np.zeros(rows)
    expected, observed = [0] * rows, [0] * rows
    for row in range(rows):
        if rng.random() < 0.8:
            begin, end = sorted(rng.integers(length + 1, size=2).tolist())
            begin *= int(rng.random() < 0.2)
            index.observed.store(row, GPU, prompt[begin:end], prompt[begin:end])
            observed[row] = sum(1 << at for at in range(begin, end))
        if rng.random() < 0.4:
            expected[row] = (1 << int(rng.integers(length + 1))) - 1
            index.add(row, keys[: expected[row].bit_length()])
    held = [one | other for one, other in zip(expected, observed, strict=True)]
    leading = [(~bits & (bits + 1)).bit_length() - 1 for bits in held]
    index._finish(keys, 0, (1 << rows) - 1, out)
    assert out.tolist() == leading
    # a lookup may gallop over holes, so it is asked about rows that have none
    for row in range(rows):
        if held[row] != (1 << leading[row]) - 1:
            index.observed.clear(row)
            leading[row] = expected[row].bit_length()
    index.lookup(keys, out)
    assert out.tolist() == leading


def test_changes_are_carried_out_in_order() -> None:
    """Stored, removed and cleared do what they say."""
    observed = Observed()
    apply(observed, 4, (Stored(GPU, words(1, 2), words(10, 20)), Removed(GPU, words(1))))
    assert (observed.holders(10), observed.holders(20)) == (0, 16)
    apply(observed, 4, (Cleared(), Stored(GPU, words(3), words(30))))
    assert (observed.holders(20), observed.holders(30), len(observed)) == (0, 16, 1)


def test_unequal_columns_are_refused() -> None:
    """Hashes without keys are a mistake of the caller, and change nothing."""
    observed = Observed()
    with pytest.raises(ValueError, match="2 hashes for 1 keys"):
        observed.store(0, GPU, words(1, 2), words(1))
    with pytest.raises(ValueError, match="1 hashes, 1 keys, 0 counts"):
        observed.load(0, [(0, words(1), words(1), np.empty(0, np.uint16))])
    assert len(observed) == 0


def test_a_snapshot_with_repeated_hashes_loads() -> None:
    """A snapshot comes from outside: of equal hashes the last counts, and what has no count is not held."""
    observed = Observed()
    observed.load(2, [(0, words(1, 1, 2, 3), words(10, 11, 11, 12), np.array([1, 2, 1, 0], np.uint16))])
    assert (observed.holders(10), observed.holders(11), observed.holders(12)) == (0, 4, 0)
    observed.remove(2, GPU, words(1, 1))
    assert observed.holders(11) == 4
    observed.remove(2, GPU, words(2))
    assert len(observed) == 0


def patterns() -> dict[str, Words]:
    """Words that a hostile publisher might choose."""
    ramp = np.arange(1, 8193, dtype=np.uint64)
    return {
        "random": np.random.default_rng(1).integers(0, 2**64, 8192, np.uint64),
        "small": ramp,
        "same low 20 bits": ramp << np.uint64(20),
        "same low 32 bits": ramp << np.uint64(32),
        "same low 51 bits": ramp << np.uint64(51),
        "same high bits": ramp | np.uint64(2**63),
        "multiples of a prime": ramp * np.uint64(536870923 * 1021),
    }


@pytest.mark.parametrize("name", patterns())
def test_no_choice_of_words_makes_long_chains(name: str) -> None:
    """Chains stay short for words that are alike in their low bits, high bits or factors."""
    chosen = patterns()[name]
    observed = Observed(seed=2024)
    for at in range(0, len(chosen), 64):
        observed.store(0, GPU, chosen[at : at + 64], chosen[at : at + 64])
    table = observed._gpu
    lengths = Counter(table.bucket(word) for word in chosen.tolist())
    assert max(lengths.values()) <= 64


def test_other_seeds_spread_words_otherwise() -> None:
    """What falls together under one seed does not under another."""
    chosen = np.random.default_rng(1).integers(0, 2**64, 1000, np.uint64)
    spread = []
    for seed in (1, 2):
        observed = Observed(seed)
        observed.store(0, GPU, chosen, chosen)
        spread.append([observed._gpu.bucket(word) for word in chosen.tolist()])
    assert spread[0] != spread[1]


def test_clearing_a_row_takes_no_time_and_sweeping_little_steps() -> None:
    """A replica of 250,000 blocks that others share in part is forgotten at once, and goes on with new ones."""
    rng = np.random.default_rng(3)
    observed = Observed()
    keys = rng.integers(0, 2**64, 250_000, np.uint64)
    observed.load(0, [(0, keys, keys, np.ones(len(keys), np.uint16))])
    observed.load(1, [(0, keys[:30_000], keys[:30_000], np.ones(30_000, np.uint16))])
    begun = time.process_time()
    observed.clear(0)
    assert time.process_time() - begun < 0.01
    assert (len(observed), observed.blocks(0), observed.contents(0)) == (30_000, 0, [])
    assert {observed.holders(key) for key in keys.tolist()} == {0, 2}
    observed.store(0, GPU, keys[29_000:31_000], keys[29_000:31_000])
    steps = 0
    while observed.sweep():
        steps += 1
        seen = [observed.holders(key) for key in keys[28_999::1_000].tolist()]
        assert seen[:4] == [2, 3, 1, 0]
        assert not any(seen[3:])
    assert 100 < steps < 250
    assert (len(observed), observed._gpu.live) == (31_000, 31_000)


def test_what_was_cleared_goes_as_blocks_come() -> None:
    """Where nobody sweeps, a row that is cleared again and again takes no more room than twice what it holds."""
    rng = np.random.default_rng(4)
    observed = Observed()
    for _ in range(8):
        keys = rng.integers(0, 2**64, 20_000, np.uint64)
        for at in range(0, len(keys), 500):
            observed.store(0, GPU, keys[at : at + 500], keys[at : at + 500])
        assert observed._gpu.live <= 40_000
        observed.clear(0)
    assert len(observed) == 0
