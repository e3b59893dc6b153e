"""Records on the wire: what is read is what was written."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.knowledge.sharing import records

_WORD = st.integers(0, 2**64 - 1)
_HEADER = records.Header(7, 3, 1234.5)


@given(
    st.lists(_WORD, max_size=50),
    _WORD,
    st.integers(0, 2**31),
    st.floats(0.0, 1.0),
    st.integers(1, 1000),
    st.booleans(),
    st.booleans(),
)
def test_records_come_back_as_they_were(
    keys: list[int], order: int, tokens: int, share: float, sequences: int, stream: bool, prefilled: bool
) -> None:
    """An entry with one record of each kind is read as it was written."""
    data = records.pack_header(_HEADER)
    data += records.pack_opened(
        order, tokens, tokens * share, 0.5, 16.0, sequences, keys, stream=stream, prefilled=prefilled
    )
    data += records.pack_prefilled(order) + records.pack_settled(order, True, 55)
    assert records.unpack_header(data) == _HEADER
    opened, begun, settled = records.unpack_records(data)
    assert isinstance(opened, records.Opened)
    assert opened.key_list() == keys
    assert (opened.order, opened.tokens, opened.sequences) == (order, tokens, sequences)
    assert (opened.stream, opened.prefilled) == (stream, prefilled)
    assert opened.hit == pytest.approx(tokens * share, rel=1e-6, abs=1e-30)
    assert begun == records.Prefilled(order)
    assert settled == records.Settled(order, True, 55)


def test_very_long_prompts_are_told_in_part() -> None:
    """Keys beyond the bound are left out, so that one request cannot fill an entry."""
    keys = list(range(records.MOST_KEYS + 5))
    data = records.pack_header(_HEADER)
    data += records.pack_opened(1, 10, 0.0, 0.5, 16.0, 1, keys, stream=True, prefilled=False)
    (opened,) = records.unpack_records(data)
    assert isinstance(opened, records.Opened)
    assert opened.key_list() == keys[: records.MOST_KEYS]


@given(_WORD, st.frozensets(_WORD, max_size=20), st.booleans())
def test_beats_come_back_as_they_were(newest: int, open: frozenset[int], leaving: bool) -> None:
    """A beat is read as it was written."""
    beat = records.unpack_beat(records.pack_beat(5, 9, newest, open, leaving=leaving))
    assert beat == records.Beat(5, 9, newest, leaving, open)


@given(st.binary(max_size=100))
def test_other_bytes_are_malformed_or_well_formed(data: bytes) -> None:
    """Whatever comes, it is read or refused, and nothing else happens."""
    for read in (records.unpack_header, lambda data: list(records.unpack_records(data)), records.unpack_beat):
        with contextlib.suppress(records.Malformed):
            read(data)


@given(st.integers(-5, 2**40), st.floats(), st.floats(), st.floats(), st.integers(-3, 2**20))
def test_what_is_written_can_be_read(
    tokens: int, hit: float, predicted: float, block_tokens: float, sequences: int
) -> None:
    """However odd a request's numbers are, its record does not cost others the records beside it."""
    data = records.pack_header(_HEADER)
    data += records.pack_opened(
        1, tokens, hit, predicted, block_tokens, sequences, [], stream=True, prefilled=False
    ) + records.pack_prefilled(2)
    opened, begun = records.unpack_records(data)
    assert isinstance(opened, records.Opened)
    assert begun == records.Prefilled(2)
