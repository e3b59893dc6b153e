"""The long fields of events: hashes, token ids, extra keys. Each is counted before it is decoded."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from kvroute.router.core.changes import Words
from kvroute.router.knowledge.events.batch import REFUSALS, BadBatch, BlockRemoved, BlockStored, Event
from kvroute.router.knowledge.events.headers import array_header, is_beyond

MOST_HASHES = 100_000
"""Of one event; a step of 380,000 tokens has 24,000 blocks."""
MOST_IDS = 400_000
"""Of one event."""
MOST_EXTRAS = 20_000
"""Values in the extra keys of one event, at any depth, where they are neither nil nor the adapter's name alone."""
_MOST_UNLIKE = 20_000
"""Hashes of one event that are written in ways of their own, and read one by one."""
_WORD = (1 << 64) - 1
_TAGGED_WORD = np.dtype([("tag", "u1"), ("word", ">u8")])
_LONE_WORD = np.dtype([("head", "u1"), ("tag", "u1"), ("word", ">u8")])
"""A list of one hash."""
_LIST_OF_ONE = 0x91
_UINT64 = 0xCF
"""msgpack's tag of an unsigned 64-bit integer, which nearly all hashes are written as."""
_BYTES = 0xC4
"""msgpack's tag of a byte string, whose length is the next byte."""
_MOST_JOINED = 1024
_MOST_JOINED_BYTES = 16 << 10
"""Removals that are joined at most."""
_NO_WORDS = np.empty(0, np.uint64)
_hashes = msgspec.msgpack.Decoder(list[int | bytes]).decode
_ids = msgspec.msgpack.Decoder(list[int]).decode
_any = msgspec.msgpack.Decoder().decode


def length(raw: Raw) -> int:
    """How many elements a list has.

    Raises:
        BadBatch: it is none.
    """
    count, start = array_header(bytes(raw)[:5])
    if not start:
        raise BadBatch("something else where a list should be")
    return count


def ids(raw: Raw) -> list[int]:
    """Token ids.

    Raises:
        BadBatch: it is no list of integers, or too long a one.
    """
    if len(raw) > MOST_IDS and length(raw) > MOST_IDS:
        raise BadBatch(f"more than {MOST_IDS} token_ids in an event")
    try:
        return _ids(raw)
    except REFUSALS as error:
        raise BadBatch(f"token_ids: {error}") from error


def words(raw: Raw) -> Words:
    """A list of block hashes as 64-bit words; of longer ones the low 64 bits, which the engine itself takes for its
    integer form.

    Raises:
        BadBatch: it is not a list of integers and byte strings, or too long a one.
    """
    data = bytes(raw)
    count, start = array_header(data[:5])
    if count > MOST_HASHES:
        raise BadBatch(f"{count} block_hashes in an event, more than {MOST_HASHES}")
    if count and len(data) == start + 9 * count and data[start::9].count(_UINT64) == count:
        return np.frombuffer(data, _TAGGED_WORD, count, start)["word"].astype(np.uint64)
    if count > 1 and data[start] == _BYTES and (size := data[start + 1]) >= 8:
        width = 2 + size
        if len(data) == start + width * count and data[start::width].count(_BYTES) == count:
            table = np.frombuffer(data, np.uint8, offset=start).reshape(count, width)
            if (table[:, 1] == size).all():
                return np.ascontiguousarray(table[:, -8:]).view(">u8").reshape(-1).astype(np.uint64)
    return _words(raw)


def gathered(events: Sequence[Event]) -> Iterator[tuple[Event, Words, int]]:
    """Each event, its hashes, and how many events that was: removals in a row are one, for an engine whose cache is
    full tells of each by itself.

    Raises:
        BadBatch: as `words`.
    """
    first: BlockRemoved | None = None
    raws: list[Raw] = []
    size = 0
    for event in events:
        if isinstance(event, BlockRemoved):
            size += len(event.block_hashes)
            if first is not None and len(raws) < _MOST_JOINED and size < _MOST_JOINED_BYTES and _alike(event, first):
                raws.append(event.block_hashes)
                continue
            if first is not None:
                yield first, _all_words(raws), len(raws)
            first, raws, size = event, [event.block_hashes], len(event.block_hashes)
            continue
        if first is not None:
            yield first, _all_words(raws), len(raws)
            first = None
        yield event, words(event.block_hashes) if isinstance(event, BlockStored) else _NO_WORDS, 1
    if first is not None:
        yield first, _all_words(raws), len(raws)


def word(hash_: int | bytes) -> int:
    """One block hash as 64 bits."""
    return (int.from_bytes(hash_[-8:], "big") if isinstance(hash_, bytes) else hash_) & _WORD


def plain(raw: Raw) -> Any:
    """Any field as plain Python objects.

    Raises:
        BadBatch: it has none, or holds too much.
    """
    if is_beyond(bytes(raw), MOST_EXTRAS):
        raise BadBatch(f"more than {MOST_EXTRAS} values in extra_keys")
    try:
        return _any(raw)
    except (*REFUSALS, TypeError) as error:  # TypeError: a map whose key is a list
        raise BadBatch(str(error)) from error


def nothing_but_nil(raw: Raw) -> bool:
    """Whether a field is absent, nil, or a list of nothing else."""
    if len(raw) < 2:
        return bytes(raw) in (b"", b"\xc0", b"\x90")
    told, _ = array_header(bytes(raw)[:5])
    return told > 0 and is_repeated(raw, b"\xc0", told)


def is_repeated(raw: Raw, item: bytes, count: int) -> bool:
    """Whether a field is a list of `count` times the same item, whose msgpack is given."""
    data = bytes(raw)
    told, start = array_header(data[:5])
    return told == count and len(data) == start + count * len(item) and data[start:] == item * count


def _alike(one: BlockRemoved, other: BlockRemoved) -> bool:
    return one.medium == other.medium and one.group_idx == other.group_idx


def _all_words(raws: Sequence[Raw]) -> Words:
    """The hashes of several lists, most often of one each."""
    count = len(raws)
    if count > 1:
        data = b"".join(raws)
        if len(data) == 10 * count and data[::10].count(_LIST_OF_ONE) == data[1::10].count(_UINT64) == count:
            return np.frombuffer(data, _LONE_WORD)["word"].astype(np.uint64)
    return words(raws[0]) if count == 1 else np.concatenate([words(raw) for raw in raws])


def _words(raw: Raw) -> Words:
    """Hashes that are not all written alike."""
    try:
        hashes = _hashes(raw)
    except REFUSALS as error:
        raise BadBatch(f"block_hashes: {error}") from error
    if not hashes:
        return _NO_WORDS
    try:
        return np.frombuffer(array("Q", hashes), np.uint64)  # type: ignore[type-var]  # byte strings raise
    except (TypeError, OverflowError):
        if len(hashes) > _MOST_UNLIKE:
            raise BadBatch(f"{len(hashes)} block_hashes of several forms in an event") from None
        return np.array([word(hash_) for hash_ in hashes], np.uint64)
