"""Block keys chain: equal key, equal prefix."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.core import blocks

names = st.one_of(st.none(), st.text(alphabet="ab:+-1", max_size=4))


@given(st.binary(max_size=200), st.integers(1, 40), st.integers(0, 2**64 - 1))
def test_only_full_blocks_have_keys(data: bytes, size: int, parent: int) -> None:
    """A chain has one key per full block, whatever the bytes' type."""
    keys = blocks.extend(parent, data, size)
    assert len(keys) == len(data) // size
    assert keys == blocks.extend(parent, memoryview(data), size)


@given(st.binary(max_size=200), st.integers(0, 20), st.integers(1, 16))
def test_a_chain_is_taken_up_again_from_any_key(data: bytes, cut: int, size: int) -> None:
    """Hashing in two steps equals hashing at once."""
    whole = blocks.extend(7, data, size)
    head = blocks.extend(7, data[: cut * size], size)
    assert whole == head + blocks.extend(head[-1] if head else 7, data[cut * size :], size)


@given(st.binary(min_size=64, max_size=64), st.integers(0, 63))
def test_a_change_alters_every_later_key_and_no_earlier_one(data: bytes, at: int) -> None:
    """Keys agree exactly up to the block that differs."""
    other = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    pairs = list(zip(blocks.extend(1, data, 8), blocks.extend(1, other, 8), strict=True))
    assert [a == b for a, b in pairs] == [i < at // 8 for i in range(8)]


@given(st.tuples(st.text("ab:+-1", max_size=4), names, names), st.tuples(st.text("ab:+-1", max_size=4), names, names))
def test_roots_differ_by_model_adapter_and_salt(
    one: tuple[str, str | None, str | None], other: tuple[str, str | None, str | None]
) -> None:
    """Two roots are equal exactly when all three parts are; None is not the empty string."""
    assert (blocks.root(*one) == blocks.root(*other)) == (one == other)


def test_a_root_takes_lone_surrogates() -> None:
    """JSON may carry a lone surrogate in any string; it makes a root like any other."""
    assert blocks.root("\ud800", None, None) != blocks.root("\ud801", None, None)


@given(st.permutations(["a" * 300, "b" * 300, "a" * 70_000]), st.permutations(["a" * 300, "b" * 300, "a" * 70_000]))
def test_long_parts_part_roots_too(one: list[str], other: list[str]) -> None:
    """Names and salts of any length count with all their characters."""
    assert (blocks.root(*one) == blocks.root(*other)) == (one == other)


def test_a_client_s_long_strings_are_not_kept() -> None:
    """Two hundred salts of 100 KB leave next to nothing behind."""
    tracemalloc.start()
    try:
        for number in range(200):
            blocks.root("m" * 100_000 + str(number), "\ud800" * 1000, str(number) + "s" * 100_000)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
