"""The binary form of changes and tables."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.core.changes import Change, Cleared, Removed, Stored, Words
from kvroute.router.core.observed import Contents
from kvroute.router.knowledge.sharing import packing

WORD = st.integers(0, 2**64 - 1)


def words(values: list[int]) -> Words:
    return np.array(values, np.uint64)


def stored(medium: int, pairs: list[tuple[int, int]]) -> Stored:
    return Stored(medium, words([hash for hash, _ in pairs]), words([key for _, key in pairs]))


CHANGES: st.SearchStrategy[list[Change]] = st.lists(
    st.one_of(
        st.builds(stored, st.integers(0, 2), st.lists(st.tuples(WORD, WORD), max_size=9)),
        st.builds(Removed, st.integers(0, 2), st.lists(WORD, max_size=9).map(words)),
        st.just(Cleared()),
    ),
    max_size=6,
)


def plain(changes: object) -> object:
    """Comparable: arrays as lists."""
    assert isinstance(changes, list | tuple)
    return [
        (
            type(change).__name__,
            *(value.tolist() if isinstance(value, np.ndarray) else value for value in _values(change)),
        )
        for change in changes
    ]


def _values(change: Change) -> list[object]:
    return [getattr(change, name) for name in change.__struct_fields__]


@given(CHANGES)
def test_changes_come_back(changes: list[Change]) -> None:
    """What is unpacked is what was packed, in order, and the size is told beforehand."""
    data = packing.pack(changes)
    assert plain(packing.unpack(data)) == plain(changes)
    assert len(data) == sum(map(packing.size, changes))


@given(st.binary(max_size=60))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    """Bytes of another making raise ValueError or make changes; nothing else happens."""
    for read in (packing.unpack, lambda data: list(packing.pieces(data, 10))):
        with contextlib.suppress(ValueError):
            read(data)


@given(CHANGES, st.integers(1, 40))
def test_cut_bytes(changes: list[Change], cut: int) -> None:
    """Changes that lost their end are refused, unless the cut falls between two of them."""
    data = packing.pack(changes)[:-cut]
    whole = [packing.pack(changes[:count]) for count in range(len(changes) + 1)]
    if data in whole:
        assert plain(packing.unpack(data)) == plain(changes[: whole.index(data)])
    else:
        with pytest.raises(ValueError, match="cut short"):
            packing.unpack(data)


def table(sizes: list[int]) -> list[Contents]:
    rng = np.random.default_rng(1)
    return [
        (
            medium,
            rng.integers(0, 2**64, size, np.uint64),
            rng.integers(0, 2**64, size, np.uint64),
            np.where(rng.random(size) < 0.01, rng.integers(2, 9, size), 1).astype(np.uint16),
        )
        for medium, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("sizes", [[], [1], [packing.PART_PAIRS], [packing.PART_PAIRS + 1, 5], [40_000, 0, 16_001]])
def test_tables_come_back(sizes: list[int]) -> None:
    """A table comes back from its parts, counts included, at about 16 bytes a pair."""
    contents = table(sizes)
    made = list(packing.parts(contents))
    assert len(made) == packing.part_count(contents)
    assert all(len(part) < 1 << 18 for part in made)
    assert sum(map(len, made)) <= 16.2 * packing.pairs(contents) + 12 * len(made)
    for medium, hashes, keys, counts in contents:
        back = [piece for part in made for piece in packing.pieces(part, 1000) if piece[0] == medium]
        assert all(len(piece[1]) <= 1000 for piece in back)
        assert [hash_ for piece in back for hash_ in piece[1].tolist()] == hashes.tolist()
        assert [key for piece in back for key in piece[2].tolist()] == keys.tolist()
        assert [count for piece in back for count in piece[3].tolist()] == counts.tolist()


def test_a_part_that_lies() -> None:
    """A count for a pair that is not there, a medium that is none, a wrong length: refused."""
    (part,) = packing.parts([(0, words([1, 2]), words([3, 4]), np.array([1, 7], np.uint16))])
    lying = bytearray(part)
    lying[12 + 32] = 9
    with pytest.raises(ValueError, match="not there"):
        list(packing.pieces(bytes(lying), 10))
    with pytest.raises(ValueError, match="Medium"):
        list(packing.pieces(b"\x07" + part[1:], 10))
    with pytest.raises(ValueError, match="length"):
        list(packing.pieces(part + b"x", 10))
