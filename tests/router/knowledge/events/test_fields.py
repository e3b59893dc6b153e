"""The long fields of events: every form of them, and bounds on what they cost."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.knowledge.events.batch import BadBatch, decode
from kvroute.router.knowledge.events.fields import (
    MOST_EXTRAS,
    MOST_HASHES,
    MOST_IDS,
    gathered,
    ids,
    length,
    nothing_but_nil,
    plain,
    word,
    words,
)
from tests.router.knowledge.events.naive import CLEARED, payload, removed, stored

pack = msgspec.msgpack.encode
hashes = st.lists(st.integers(0, 2**64 - 1) | st.binary(min_size=1, max_size=40))


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(pack(value))


def test_long_fields_are_refused_before_they_are_decoded() -> None:
    """A value may take one byte, so a bound on bytes is none on work."""
    assert len(words(_raw([5] * MOST_HASHES))) == MOST_HASHES
    assert len(ids(_raw([5] * MOST_IDS))) == MOST_IDS
    assert len(plain(_raw([[]] * (MOST_EXTRAS - 1)))) == MOST_EXTRAS - 1
    for read, count in ((words, MOST_HASHES), (ids, MOST_IDS), (plain, MOST_EXTRAS)):
        with pytest.raises(BadBatch, match="more than"):
            read(_raw([[]] * (count + 1)))  # whose elements are not looked at


def test_hashes_of_many_forms_are_few() -> None:
    """They are read one by one."""
    assert len(words(_raw([1, b""] * 10_000))) == 20_000
    with pytest.raises(BadBatch, match="several forms"):
        words(_raw([1, b""] * 10_001))


@pytest.mark.parametrize("bad", [None, 1, {}, "text"])
def test_what_is_no_list_has_no_length(bad: Any) -> None:
    """Nor is it a list of nothing."""
    with pytest.raises(BadBatch):
        length(_raw(bad))
    with pytest.raises(BadBatch):
        ids(_raw(bad))


@given(st.integers(0, 20), st.data())
@settings(deadline=None)
def test_digests_are_read_at_once(size: int, data: st.DataObject) -> None:
    """Byte strings of one length, each: their last eight bytes are what counts."""
    told = data.draw(st.lists(st.binary(min_size=size, max_size=size), max_size=40))
    assert words(_raw(told)).tolist() == [word(one) for one in told]


@given(hashes)
@settings(deadline=None)
def test_hashes_are_the_same_words_whatever_their_form(told: list[int | bytes]) -> None:
    """The low 64 bits, as the engine's integer form has them; the fast way and the general one agree."""
    found = words(_raw(told))
    assert found.dtype == np.uint64
    assert found.tolist() == [int.from_bytes(one, "big") % 2**64 if isinstance(one, bytes) else one for one in told]


@given(st.lists(st.integers(2**32, 2**64 - 1), max_size=100))
@settings(deadline=None)
def test_wide_hashes_are_read_at_once(told: list[int]) -> None:
    """All of nine bytes: read as columns; also above 15, and 65,535."""
    assert words(_raw(told)).tolist() == told


def test_long_lists_of_hashes_are_read() -> None:
    """Array headers of every width."""
    for count in (0, 15, 16, 65_535, 65_536):
        told = [2**64 - 1 - at for at in range(count)]
        assert words(_raw(told)).tolist() == told


def test_nine_bytes_each_are_not_taken_for_hashes_by_their_length_alone() -> None:
    """Negative numbers and byte strings of seven are nine bytes wide as well."""
    told: list[int | bytes] = [2**64 - 1, -(2**62), b"seven..", 2**60]
    assert words(_raw(told)).tolist() == [one % 2**64 if isinstance(one, int) else word(one) for one in told]


@pytest.mark.parametrize("bad", [None, 1, "text", {}, [None], ["text"], [1.5], [[1]], [2**63, "12345678"]])
def test_what_are_no_hashes_is_refused(bad: Any) -> None:
    """A list of integers and byte strings, or nothing."""
    with pytest.raises(BadBatch):
        words(_raw(bad))


@pytest.mark.parametrize(
    ("value", "nothing"),
    [(None, True), ([None] * 20, True), ([None] * 19, True), ([], True), ([None, []], False), (["a"], False)],
)
def test_nothing_is_told_apart_from_something(value: Any, nothing: bool) -> None:
    """nil, or a list of nothing else."""
    assert nothing_but_nil(_raw(value)) is nothing
    assert nothing_but_nil(msgspec.Raw())


def test_removals_in_a_row_are_one() -> None:
    """Only those of one medium and group are joined, whatever form their hashes have, and order stays."""
    events = [removed([1]), removed([2**63]), removed([b"\0" * 24 + (5).to_bytes(8, "big"), 7]), removed([9], "CPU")]
    told = decode(payload(*events, stored([3], None, [1], 1), removed([4]), CLEARED)).events
    found = [hashes.tolist() for _, hashes, _ in gathered(told)]
    assert found == [[1, 2**63, 5, 7], [9], [3], [4], []]


@pytest.mark.parametrize("count", [2, 1024, 1025, 3000])
def test_many_lone_removals_are_read_at_once(count: int) -> None:
    """An engine that evicts one block after another tells of each in its own event."""
    hashes = [2**63 + at for at in range(count)]
    told = decode(payload(*(removed([hash_]) for hash_ in hashes))).events
    assert [hash_ for _, some, _ in gathered(told) for hash_ in some.tolist()] == hashes


def test_joined_removals_are_bounded() -> None:
    """However many hashes each has, a part of all is read at a time."""
    told = decode(payload(*[removed([5] * 1000)] * 100)).events
    assert max(len(hashes) for _, hashes, _ in gathered(told)) < 20_000
    assert sum(count for _, _, count in gathered(told)) == 100
