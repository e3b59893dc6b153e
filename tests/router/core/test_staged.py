"""Contents put in little by little: unseen until they are shown, and then what one load would have made of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.core.observed import Contents, Observed

_PAIR = st.tuples(st.integers(0, 1), st.integers(0, 60), st.integers(1, 40), st.integers(1, 3))
_PARTS = st.lists(st.lists(_PAIR, max_size=30), max_size=6)


def contents(pairs: list[tuple[int, int, int, int]]) -> list[Contents]:
    """A part for each medium that is named."""
    found: list[Contents] = []
    for medium in sorted({pair[0] for pair in pairs}):
        of = {hash_: (key, count) for at, hash_, key, count in pairs if at == medium}
        keys, counts = zip(*of.values(), strict=True)
        found.append((medium, np.array(list(of), np.uint64), np.array(keys, np.uint64), np.array(counts, np.uint16)))
    return found


def shown(observed: Observed) -> list[tuple[int, int]]:
    """Who holds each key, on GPU and anywhere."""
    return [(observed.holders(key), observed.holders_anywhere(key)) for key in range(41)]


@given(_PARTS, _PARTS, st.booleans())
def test_parts_add_up_to_one_load(
    parts: list[list[tuple[int, int, int, int]]], others: list[list[tuple[int, int, int, int]]], late: bool
) -> None:
    """Whatever else comes between them, and whatever the row held before."""
    observed, plain = Observed(), Observed()
    for row, pairs in enumerate(others):
        for both in (observed, plain):
            both.load(row, contents(pairs))
    before = shown(observed)
    staged = observed.stage()
    first: dict[tuple[int, int], tuple[int, int, int, int]] = {}
    for pairs in parts:
        for part in contents(pairs):
            observed.put(staged, part)
        for medium, hash_, *_ in pairs:
            if (medium, hash_) not in first:
                last = [pair for pair in pairs if pair[:2] == (medium, hash_)][-1]
                first[medium, hash_] = last
    assert shown(observed) == before
    if late:
        for both in (observed, plain):
            both.clear(3)
            both.load(4, contents([(0, 7, 7, 1), (1, 8, 8, 1)]))
    observed.show(1, staged)
    plain.load(1, contents(list(first.values())))
    assert shown(observed) == shown(plain)
    assert observed.blocks(1) == plain.blocks(1) == len(first)
    for both in (observed, plain):
        for medium, hashes, _, counts in both.contents(1):
            for _ in range(int(counts.max())):
                both.remove(1, medium, hashes)
        assert both.blocks(1) == 0
        for row in range(7):
            both.clear(row)
        while both.sweep():
            pass
        assert not both
    assert shown(observed) == [(0, 0)] * 41


@given(_PARTS)
def test_what_is_dropped_was_never_there(parts: list[list[tuple[int, int, int, int]]]) -> None:
    """All of its room is given back by sweeping."""
    observed = Observed()
    observed.load(0, contents([(0, 1, 1, 1)]))
    staged = observed.stage()
    for pairs in parts:
        for part in contents(pairs):
            observed.put(staged, part)
    observed.drop(staged)
    while observed.sweep():
        pass
    assert [key for key in range(41) if observed.holders_anywhere(key)] == [1]
    assert len(observed) == 1
