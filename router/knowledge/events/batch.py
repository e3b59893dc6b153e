"""One payload of a KV event stream, decoded: maps and arrays, of today's engines and of older ones."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Raw

from kvroute.router.core.changes import Words

MOST_BYTES = 2 << 20
"""A larger payload is refused: decoding it, which cannot be done by halves, would hold the loop for more than 20 ms. It
is room for 380,000 tokens of a large vocabulary, twenty times what an engine computes in a step."""
_WORD = (1 << 64) - 1
_TAGGED_WORD = np.dtype([("tag", "u1"), ("word", ">u8")])
_LONE_WORD = np.dtype([("head", "u1"), ("tag", "u1"), ("word", ">u8")])
"""A list of one hash."""
_LIST_OF_ONE = 0x91
_UINT64 = 0xCF
"""msgpack's tag of an unsigned 64-bit integer, which nearly all hashes are written as."""
_MOST_JOINED = 1024
"""Removals that are joined at most."""
_NO_WORDS = np.empty(0, np.uint64)


class BadBatch(ValueError):
    """A payload that is no batch of KV events. `str()` says why."""


class Event(msgspec.Struct, tag_field="type", gc=False):
    """One event."""


class BlockStored(Event, tag="BlockStored", gc=False):
    """Blocks that are cached from now on; fields in the order in which arrays have them."""

    block_hashes: Raw
    parent_block_hash: int | bytes | None
    token_ids: list[int]
    """Of all blocks. Empty where the engine tells hashes alone: blocks that were copied to a slower medium."""
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: Raw = Raw()
    """What else went into the engine's hash of each block: adapter, salt, media."""
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(Event, tag="BlockRemoved", gc=False):
    """Blocks that were evicted."""

    block_hashes: Raw
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(Event, tag="AllBlocksCleared", gc=False):
    """The whole cache was forgotten."""


class _StoredArray(BlockStored, tag="BlockStored", array_like=True, gc=False):
    pass


class _RemovedArray(BlockRemoved, tag="BlockRemoved", array_like=True, gc=False):
    pass


class _ClearedArray(AllBlocksCleared, tag="AllBlocksCleared", array_like=True, gc=False):
    pass


_Maps: TypeAlias = BlockStored | BlockRemoved | AllBlocksCleared
_Arrays: TypeAlias = _StoredArray | _RemovedArray | _ClearedArray


class Batch(msgspec.Struct, gc=False):
    """What one engine step changed."""

    ts: float
    """The engine's clock [seconds since 1970]."""
    events: Sequence[Event]
    unknown: int = 0
    """Events of kinds that are not known here, left out."""


class _MapBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[_Maps]


class _ArrayBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[_Arrays]


class _RawBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[Raw]


class _NamedMapBatch(msgspec.Struct, gc=False):
    """A batch that is itself a map, as in engines newer than 0.32."""

    ts: float
    events: list[_Maps]


class _NamedRawBatch(msgspec.Struct, gc=False):
    ts: float
    events: list[Raw]


class _StampedArray(msgspec.Struct, array_like=True, gc=False):
    ts: float


class _StampedMap(msgspec.Struct, gc=False):
    ts: float


class _Kind(msgspec.Struct, gc=False):
    type: str


class _KindArray(msgspec.Struct, array_like=True, gc=False):
    type: str


_maps = msgspec.msgpack.Decoder(_MapBatch).decode
_arrays = msgspec.msgpack.Decoder(_ArrayBatch).decode
_raw = msgspec.msgpack.Decoder(_RawBatch).decode
_named_maps = msgspec.msgpack.Decoder(_NamedMapBatch).decode
_named_raw = msgspec.msgpack.Decoder(_NamedRawBatch).decode
_map = msgspec.msgpack.Decoder(_Maps).decode
_array = msgspec.msgpack.Decoder(_Arrays).decode
_kind_of_map = msgspec.msgpack.Decoder(_Kind).decode
_kind_of_array = msgspec.msgpack.Decoder(_KindArray).decode
_stamp_of_map = msgspec.msgpack.Decoder(_StampedMap).decode
_stamp_of_array = msgspec.msgpack.Decoder(_StampedArray).decode
_hashes = msgspec.msgpack.Decoder(list[int | bytes]).decode
_any = msgspec.msgpack.Decoder().decode
_KINDS = frozenset(("BlockStored", "BlockRemoved", "AllBlocksCleared"))
_REFUSALS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Everything that msgspec raises for bytes that are not what was asked for."""


def decode(payload: bytes) -> Batch:
    """Decode one payload. Events of unknown kinds and unknown fields are skipped.

    Raises:
        BadBatch: it is not a batch of KV events, or larger than `MOST_BYTES`.
    """
    if len(payload) > MOST_BYTES:
        raise BadBatch(f"{len(payload)} bytes, more than {MOST_BYTES}")
    try:
        told = _likely(payload)(payload)
        return Batch(_finite(told.ts), told.events)
    except _REFUSALS:
        pass
    try:
        return _decode_one_by_one(payload)
    except _REFUSALS as error:
        raise BadBatch(str(error)) from error


def stamp(payload: bytes) -> float:
    """When the engine made this payload, by its own clock [seconds since 1970].

    Raises:
        BadBatch: there is no such number where it should stand.
    """
    try:
        return _finite((_stamp_of_map if _is_map(payload) else _stamp_of_array)(payload).ts)
    except _REFUSALS as error:
        raise BadBatch(str(error)) from error


def words(raw: Raw) -> Words:
    """A list of block hashes as 64-bit words; of longer ones the low 64 bits, which the engine itself takes for its
    integer form.

    Raises:
        BadBatch: it is not a list of integers and byte strings.
    """
    count, start = _array_header(raw)
    if count and len(raw) == start + 9 * count:
        tagged = np.frombuffer(raw, _TAGGED_WORD, count, start)
        if bytes(raw)[start::9].count(_UINT64) == count:
            return tagged["word"].astype(np.uint64)
    return _words(raw)


def gathered(events: Sequence[Event]) -> Iterator[tuple[Event, Words]]:
    """Each event and its hashes. Removals in a row are one: an engine whose cache is full tells of each by itself.

    Raises:
        BadBatch: as `words`.
    """
    first: BlockRemoved | None = None
    raws: list[Raw] = []
    for event in events:
        if isinstance(event, BlockRemoved):
            if first is not None and len(raws) < _MOST_JOINED and _alike(event, first):
                raws.append(event.block_hashes)
                continue
            if first is not None:
                yield first, _all_words(raws)
            first, raws = event, [event.block_hashes]
            continue
        if first is not None:
            yield first, _all_words(raws)
            first = None
        yield event, words(event.block_hashes) if isinstance(event, BlockStored) else _NO_WORDS
    if first is not None:
        yield first, _all_words(raws)


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
    try:
        return np.array([word(hash_) for hash_ in _hashes(raw)], np.uint64)
    except _REFUSALS as error:
        raise BadBatch(f"block_hashes: {error}") from error


def word(hash_: int | bytes) -> int:
    """One block hash as 64 bits."""
    return (int.from_bytes(hash_[-8:], "big") if isinstance(hash_, bytes) else hash_) & _WORD


def plain(raw: Raw) -> Any:
    """Any field as plain Python objects.

    Raises:
        BadBatch: it has none.
    """
    try:
        return _any(raw)
    except (*_REFUSALS, TypeError) as error:  # TypeError: a map whose key is a list
        raise BadBatch(str(error)) from error


def nothing_but_nil(raw: Raw) -> bool:
    """Whether a field is absent, nil, or a list of nothing else."""
    if len(raw) < 2:
        return bytes(raw) in (b"", b"\xc0", b"\x90")
    told, _ = _array_header(raw)
    return told > 0 and is_repeated(raw, b"\xc0", told)


def is_repeated(raw: Raw, item: bytes, count: int) -> bool:
    """Whether a field is a list of `count` times the same item, whose msgpack is given."""
    told, start = _array_header(raw)
    return told == count and bytes(raw)[start:] == item * count


def _array_header(raw: Raw) -> tuple[int, int]:
    """How many elements an array has, and where the first one stands; (0, 0) where it is no array."""
    head = bytes(raw)[:5]
    if not head:
        return 0, 0
    if head[0] & 0xF0 == 0x90:
        return head[0] & 0x0F, 1
    if head[0] == 0xDC and len(head) >= 3:
        return int(struct.unpack_from(">H", head, 1)[0]), 3
    if head[0] == 0xDD and len(head) == 5:
        return int(struct.unpack_from(">I", head, 1)[0]), 5
    return 0, 0


def _likely(payload: bytes) -> Callable[[bytes], _MapBatch | _ArrayBatch | _NamedMapBatch]:
    """The decoder that most probably fits. After `[ts, [` the first event begins; a long list of them is taken to be
    one of maps. A wrong guess costs a failed try."""
    if _is_map(payload):
        return _named_maps
    if len(payload) > 11 and payload[10] & 0xF0 == 0x90 and payload[11] & 0xF0 == 0x90:
        return _arrays
    return _maps


def _is_map(raw: bytes | Raw) -> bool:
    first = bytes(raw[:1]) if isinstance(raw, bytes) else bytes(raw)[:1]
    return bool(first) and (first[0] & 0xF0 == 0x80 or first[0] in (0xDE, 0xDF))


def _decode_one_by_one(payload: bytes) -> Batch:
    told: _RawBatch | _NamedRawBatch = _named_raw(payload) if _is_map(payload) else _raw(payload)
    events = [event for event in map(_event, told.events) if event is not None]
    return Batch(_finite(told.ts), events, len(told.events) - len(events))


def _event(raw: Raw) -> Event | None:
    """One event, None where its kind is unknown."""
    if _is_map(raw):
        return _map(raw) if _kind_of_map(raw).type in _KINDS else None
    return _array(raw) if _kind_of_array(raw).type in _KINDS else None


def _finite(ts: float) -> float:
    if not math.isfinite(ts):
        raise BadBatch(f"ts is {ts}")
    return ts
