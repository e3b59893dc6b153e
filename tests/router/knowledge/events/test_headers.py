"""Counting msgpack without decoding it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.knowledge.events.headers import array_header, is_beyond

pack = msgspec.msgpack.encode
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | st.builds(msgspec.msgpack.Ext, st.integers(0, 127), st.binary(max_size=40))
)
things = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.integers(-(2**63), 2**63), inner),
    max_leaves=60,
)


def _values(thing: Any) -> int:
    if isinstance(thing, dict):
        return 1 + len(thing) + sum(map(_values, thing.values()))
    return 1 + sum(map(_values, thing)) if isinstance(thing, list) else 1


@given(things)
@settings(deadline=None)
def test_values_are_counted_as_decoding_finds_them(thing: Any) -> None:
    """All kinds and widths, at any depth; of what has fewer bytes than values allowed it is not even looked."""
    data = pack(thing)
    count = _values(thing)
    assert not is_beyond(data, count)
    assert is_beyond(data, count - 1) is (len(data) > count - 1)


@pytest.mark.parametrize("form", [b"\xc6\x00\x01\x00\x00", b"\xdb\x00\x01\x00\x00", b"\xc9\x00\x01\x00\x00\x05"])
def test_long_strings_are_one_value(form: bytes) -> None:
    """Lengths of four bytes."""
    data = b"\x92" + form + b"x" * 65536 + b"\x05"
    assert is_beyond(data, 2)
    assert not is_beyond(data, 3)


@pytest.mark.parametrize("count", [0, 15, 16, 65535, 65536])
def test_array_headers_of_every_width(count: int) -> None:
    """The first five bytes are enough."""
    data = pack([None] * count)
    told, start = array_header(data[:5])
    assert (told, len(data) - start) == (count, count)


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\xdc\x00", b"\xdd\x00\x00\x00", b"\x80"])
def test_what_is_no_array_has_no_header(data: bytes) -> None:
    """Nor what is cut off."""
    assert array_header(data) == (0, 0)
