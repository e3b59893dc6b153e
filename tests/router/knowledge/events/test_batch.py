"""Payloads of KV events: all forms that engines write, and anything else."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.knowledge.events.batch import (
    MOST_BYTES,
    AllBlocksCleared,
    BadBatch,
    BlockRemoved,
    BlockStored,
    decode,
    gathered,
    nothing_but_nil,
    stamp,
    word,
    words,
)
from tests.fuzz_kv_events import read_all
from tests.router.knowledge.events.naive import CLEARED, payload, removed, stored

pack = msgspec.msgpack.encode
hashes = st.lists(st.integers(0, 2**64 - 1) | st.binary(min_size=1, max_size=40))
things = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_events_are_read_as_maps() -> None:
    """Today's form: maps in an array, with the rank behind."""
    told = decode(payload(stored([1, 2], 9, [5, 6], 1, lora_name="ad", group_idx=3), removed([7]), CLEARED, ts=4.5))
    assert told.ts == 4.5
    one, two, three = told.events
    assert isinstance(one, BlockStored)
    assert words(one.block_hashes).tolist() == [1, 2]
    assert (one.parent_block_hash, one.token_ids, one.block_size) == (9, [5, 6], 1)
    assert (one.lora_name, one.medium, one.group_idx, one.kv_cache_spec_kind) == ("ad", "GPU", 3, None)
    assert isinstance(two, BlockRemoved)
    assert words(two.block_hashes).tolist() == [7]
    assert isinstance(three, AllBlocksCleared)


def test_a_batch_may_be_a_map_itself() -> None:
    """The newest form: names everywhere."""
    body = {"ts": 2.0, "events": [removed([7]), CLEARED], "data_parallel_rank": 1}
    assert [type(event) for event in decode(pack(body)).events] == [BlockRemoved, AllBlocksCleared]
    body["events"] = [["AllBlocksCleared"], {"type": "Later"}]
    told = decode(pack(body))
    assert (len(told.events), told.unknown, stamp(pack(body))) == (1, 1, 2.0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([[1], None, [5], 1], (None, None, None, None)),
        ([[1], None, [5], 1, 3], (3, None, None, None)),
        ([[1], None, [5], 1, 3, "CPU"], (3, "CPU", None, None)),
        ([[1], None, [5], 1, 3, "CPU", "ad"], (3, "CPU", "ad", None)),
        ([[1], None, [5], 1, 3, "CPU", "ad", [None], 2, "full_attention", None, "LOCAL"], (3, "CPU", "ad", 2)),
    ],
)
def test_events_are_read_as_arrays_of_any_age(fields: list[Any], expected: tuple[Any, ...]) -> None:
    """Older engines write fields in order, and had fewer of them; a rank was not always there."""
    for body in ([1.0, [["BlockStored", *fields]]], [1.0, [["BlockStored", *fields], ["BlockRemoved", [1]]], 0]):
        event = decode(pack(body)).events[0]
        assert isinstance(event, BlockStored)
        assert (event.token_ids, event.block_size) == ([5], 1)
        assert (event.lora_id, event.medium, event.lora_name, event.group_idx) == expected


def test_unknown_kinds_and_fields_are_left_out_and_counted() -> None:
    """What a later engine adds does no harm; both forms may stand side by side."""
    mixed = payload(
        {"type": "BlockMigrated", "x": [1]},
        stored([1], None, [5], 1, locality="LOCAL", session_id="s"),
        ["Later", 3],
        ["BlockRemoved", [1], "GPU"],
    )
    told = decode(mixed)
    assert told.unknown == 2
    assert isinstance(told.events[0], BlockStored)
    assert isinstance(told.events[1], BlockRemoved)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xc1",
        b"\x00",
        pack("text"),
        pack([]),
        pack([1.0]),
        pack(["now", []]),
        pack([float("nan"), []]),
        pack([float("inf"), [], 0]),
        pack([1.0, {}]),
        pack([1.0, [1]]),
        pack([1.0, [{}]]),
        pack([1.0, [[]]]),
        pack([1.0, [{"type": 3}]]),
        pack([1.0, [{"type": "BlockStored"}]]),
        pack([1.0, [["BlockStored", [1]]]]),
        payload({**stored([1], None, [1], 1), "token_ids": ["x"]}),
        payload(stored([1], 1.5, [1], 1)),
        payload({"type": "BlockRemoved"}),
        payload(removed([1], medium=3)),  # type: ignore[arg-type]
        b"\x92\xcb" + b"\x00" * 8 + b"\x91" * 5000,
        b"\x92\xcb" + b"\x00" * 8 + b"\xdd\xff\xff\xff\xff",
        b"\x92\xcb" + b"\x00" * 8 + b"\x91\x81\xa4type\xa2\xff\xff",
        b"\x00" * (MOST_BYTES + 1),
    ],
)
def test_what_is_no_batch_is_refused_with_a_reason(bad: bytes) -> None:
    """Truncated, mistyped, nested without end, too large: one exception, which says why."""
    with pytest.raises(BadBatch, match=r".+"):
        decode(bad)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_a_batch_or_refused(data: bytes) -> None:
    """Nothing but BadBatch ever leaves the decoder, and it says why."""
    assert not read_all(data) or decode(data)


@given(st.lists(things, max_size=4), st.floats(allow_nan=False))
@settings(deadline=None)
def test_any_msgpack_is_a_batch_or_refused(events: list[Any], ts: float) -> None:
    """Well-formed msgpack of any content."""
    read_all(pack([ts, events, 0]))


@given(
    st.sampled_from(["block_hashes", "parent_block_hash", "token_ids", "block_size", "extra_keys", "medium"]), things
)
@settings(deadline=None)
def test_any_value_of_any_field_is_read_or_refused(field: str, value: Any) -> None:
    """A good event with one field exchanged."""
    read_all(payload({**stored([1], None, [5], 1), field: value}))


@given(st.data())
@settings(deadline=None)
def test_a_truncated_or_changed_batch_is_read_or_refused(data: st.DataObject) -> None:
    """Good bytes, cut or with one byte exchanged."""
    good = payload(stored([1, 2**63, b"12345678"], 5, [5, 6, 7], 1, extra_keys=[["s"], None, None]), removed([1]))
    at = data.draw(st.integers(0, len(good) - 1))
    read_all(good[:at])
    read_all(good[:at] + data.draw(st.binary(min_size=1, max_size=1)) + good[at + 1 :])


@given(hashes)
@settings(deadline=None)
def test_hashes_are_the_same_words_whatever_their_form(told: list[int | bytes]) -> None:
    """The low 64 bits, as the engine's integer form has them; the fast way and the general one agree."""
    found = words(msgspec.Raw(pack(told)))
    assert found.dtype == np.uint64
    assert found.tolist() == [int.from_bytes(one, "big") % 2**64 if isinstance(one, bytes) else one for one in told]


@given(st.lists(st.integers(2**32, 2**64 - 1), max_size=100))
@settings(deadline=None)
def test_wide_hashes_are_read_at_once(told: list[int]) -> None:
    """All of nine bytes: read as columns; also above 15, and 65,535."""
    assert words(msgspec.Raw(pack(told))).tolist() == told


def test_long_lists_of_hashes_are_read() -> None:
    """Array headers of every width."""
    for count in (0, 15, 16, 65_535, 65_536):
        told = [2**64 - 1 - at for at in range(count)]
        assert words(msgspec.Raw(pack(told))).tolist() == told


def test_nine_bytes_each_are_not_taken_for_hashes_by_their_length_alone() -> None:
    """Negative numbers and byte strings of seven are nine bytes wide as well."""
    told: list[int | bytes] = [2**64 - 1, -(2**62), b"seven..", 2**60]
    assert words(msgspec.Raw(pack(told))).tolist() == [
        one % 2**64 if isinstance(one, int) else word(one) for one in told
    ]


@pytest.mark.parametrize("bad", [None, 1, "text", {}, [None], ["text"], [1.5], [[1]], [2**63, "12345678"]])
def test_what_are_no_hashes_is_refused(bad: Any) -> None:
    """A list of integers and byte strings, or nothing."""
    with pytest.raises(BadBatch):
        words(msgspec.Raw(pack(bad)))


@pytest.mark.parametrize(
    ("value", "nothing"),
    [(None, True), ([None] * 20, True), ([None] * 19, True), ([], True), ([None, []], False), (["a"], False)],
)
def test_nothing_is_told_apart_from_something(value: Any, nothing: bool) -> None:
    """nil, or a list of nothing else."""
    assert nothing_but_nil(msgspec.Raw(pack(value))) is nothing
    assert nothing_but_nil(msgspec.Raw())


def test_removals_in_a_row_are_one() -> None:
    """Only those of one medium and group are joined, whatever form their hashes have, and order stays."""
    events = [removed([1]), removed([2**63]), removed([b"\0" * 24 + (5).to_bytes(8, "big"), 7]), removed([9], "CPU")]
    told = decode(payload(*events, stored([3], None, [1], 1), removed([4]), CLEARED)).events
    found = [hashes.tolist() for _, hashes in gathered(told)]
    assert found == [[1, 2**63, 5, 7], [9], [3], [4], []]


@pytest.mark.parametrize("count", [2, 1024, 1025, 3000])
def test_many_lone_removals_are_read_at_once(count: int) -> None:
    """An engine that evicts one block after another tells of each in its own event."""
    hashes = [2**63 + at for at in range(count)]
    told = decode(payload(*(removed([hash_]) for hash_ in hashes))).events
    assert [hash_ for _, some in gathered(told) for hash_ in some.tolist()] == hashes
