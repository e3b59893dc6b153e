"""Payloads of KV events: all forms that engines write, and anything else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.knowledge.events.batch import (
    MOST_BYTES,
    MOST_EVENTS,
    AllBlocksCleared,
    BadBatch,
    BlockRemoved,
    BlockStored,
    decode,
    stamp,
)
from kvroute.router.knowledge.events.fields import ids, words
from tests.fuzz_kv_events import read_all
from tests.router.knowledge.events.naive import CLEARED, payload, removed, stored

pack = msgspec.msgpack.encode
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
    assert (one.parent_block_hash, ids(one.token_ids), one.block_size) == (9, [5, 6], 1)
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
        assert (ids(event.token_ids), event.block_size) == ([5], 1)
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
        payload(stored([1], 1.5, [1], 1)),
        payload({"type": "BlockRemoved"}),
        payload(removed([1], medium=3)),  # type: ignore[arg-type]
        b"\x92\xcb" + b"\x00" * 8 + b"\x91" * 5000,
        b"\x92\xcb" + b"\x00" * 8 + b"\xdd\xff\xff\xff\xff",
        b"\x92\xcb" + b"\x00" * 8 + b"\x91\x81\xa4type\xa2\xff\xff",
        b"\x00" * (MOST_BYTES + 1),
        payload(*[["x"]] * (MOST_EVENTS + 1), ["long" * 5000]),
        pack([1, [["x", "long" * 10]] * (MOST_EVENTS + 1)]),
        pack({"ts": 1.0, "events": [["x", "long" * 10]] * (MOST_EVENTS + 1)}),
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
    st.recursive(st.none() | st.integers(0, 9) | st.sampled_from(["ad", "lora", "s"]) | st.floats(), st.lists), things
)
@settings(deadline=None)
def test_any_extra_keys_are_read_or_refused_beside_an_adapter(extra: Any, other: Any) -> None:
    """What is to be told from the adapter's name may be anything."""
    read_all(payload(stored([1, 2], None, [5, 6], 1, lora_name="ad", extra_keys=[[extra, other], [other]])))


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
