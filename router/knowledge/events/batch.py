"""One payload of a KV event stream, decoded: maps and arrays, of today's engines and of older ones."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
from msgspec import Raw

from kvroute.router.knowledge.events.headers import array_header

MOST_BYTES = 2 << 20
"""A larger payload is refused: reading it would hold the loop for more than 20 ms. It is room for 380,000 tokens of a
large vocabulary, twenty times what an engine computes in a step."""
MOST_EVENTS = 10_000
"""Of one batch, which are told apart in one go; more are refused. A step of 131,000 tokens evicts 8,200 blocks."""
_FEW_BYTES = 32 << 10
"""So many bytes hold too few events to be counted first."""
_EVENTS_AT = 10
"""Where the list of events begins in `[ts, [`."""
_FLOAT64 = 0xCB


class BadBatch(ValueError):
    """A payload that is no batch of KV events. `str()` says why."""


class Event(msgspec.Struct, tag_field="type", gc=False):
    """One event."""


class BlockStored(Event, tag="BlockStored", gc=False):
    """Blocks that are cached from now on; fields in the order in which arrays have them."""

    block_hashes: Raw
    parent_block_hash: int | bytes | None
    token_ids: Raw
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


class _WholeBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: Raw


class _NamedWholeBatch(msgspec.Struct, gc=False):
    ts: float
    events: Raw


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
_whole = msgspec.msgpack.Decoder(_WholeBatch).decode
_named_whole = msgspec.msgpack.Decoder(_NamedWholeBatch).decode
_KINDS = frozenset(("BlockStored", "BlockRemoved", "AllBlocksCleared"))
_KIND_BYTES = frozenset(kind.encode() for kind in _KINDS)
_TYPE = msgspec.msgpack.encode("type")
REFUSALS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Everything that msgspec raises for bytes that are not what was asked for."""


def decode(payload: bytes) -> Batch:
    """Decode one payload. Events of unknown kinds and unknown fields are skipped; long lists in events are left as
    they are, for whoever reads them to count first.

    Raises:
        BadBatch: it is not a batch of KV events, or larger than `MOST_BYTES`, or of more than `MOST_EVENTS`.
    """
    if len(payload) > _FEW_BYTES:
        _bound(payload)
    try:
        told = _likely(payload)(payload)
        return Batch(_finite(told.ts), told.events)
    except REFUSALS:
        pass
    try:
        return _decode_one_by_one(payload)
    except REFUSALS as error:
        raise BadBatch(str(error)) from error


def stamp(payload: bytes) -> float:
    """When the engine made this payload, by its own clock [seconds since 1970].

    Raises:
        BadBatch: there is no such number where it should stand.
    """
    if len(payload) >= _EVENTS_AT and 0x91 <= payload[0] <= 0x9F and payload[1] == _FLOAT64:  # all but always
        return _finite(float(struct.unpack_from(">d", payload, 2)[0]))
    try:
        return _finite((_stamp_of_map if _is_map(payload) else _stamp_of_array)(payload).ts)
    except REFUSALS as error:
        raise BadBatch(str(error)) from error


def _likely(payload: bytes) -> Callable[[bytes], _MapBatch | _ArrayBatch | _NamedMapBatch]:
    """The decoder that most probably fits, by how the first event begins. A wrong guess costs a failed try."""
    if _is_map(payload):
        return _named_maps
    first = _EVENTS_AT + array_header(payload[_EVENTS_AT : _EVENTS_AT + 5])[1]
    return _arrays if len(payload) > first > _EVENTS_AT and payload[first] & 0xF0 == 0x90 else _maps


def _bound(payload: bytes) -> None:
    """Refuse what would take long to tell apart."""
    if len(payload) > MOST_BYTES:
        raise BadBatch(f"{len(payload)} bytes, more than {MOST_BYTES}")
    head = payload[_EVENTS_AT : _EVENTS_AT + 5]
    if payload[0] & 0xF0 != 0x90 or payload[1] != _FLOAT64:
        try:
            told: _WholeBatch | _NamedWholeBatch = (_named_whole if _is_map(payload) else _whole)(payload)
        except REFUSALS as error:
            raise BadBatch(str(error)) from error
        head = bytes(told.events)[:5]
    count, _ = array_header(head)
    if count > MOST_EVENTS:
        raise BadBatch(f"{count} events, more than {MOST_EVENTS}")


def _is_map(raw: bytes | Raw) -> bool:
    first = bytes(raw[:1]) if isinstance(raw, bytes) else bytes(raw)[:1]
    return bool(first) and (first[0] & 0xF0 == 0x80 or first[0] in (0xDE, 0xDF))


def _decode_one_by_one(payload: bytes) -> Batch:
    told: _RawBatch | _NamedRawBatch = _named_raw(payload) if _is_map(payload) else _raw(payload)
    events = [event for event in map(_event, told.events) if event is not None]
    return Batch(_finite(told.ts), events, len(told.events) - len(events))


def _event(raw: Raw) -> Event | None:
    """One event, None where its kind is unknown."""
    is_map, data = _is_map(raw), bytes(raw)
    at = len(_TYPE) + 1 if is_map and data.startswith(_TYPE, 1) else 1
    if (not is_map or at > 1) and len(data) > at and data[at] & 0xE0 == 0xA0:  # a short name, where it is due
        kind = data[at + 1 : at + 1 + (data[at] & 0x1F)]
        if kind.isascii() and kind not in _KIND_BYTES:
            return None
    elif (_kind_of_map if is_map else _kind_of_array)(raw).type not in _KINDS:
        return None
    event: Event = _map(raw) if is_map else _array(raw)
    return event


def _finite(ts: float) -> float:
    if not math.isfinite(ts):
        raise BadBatch(f"ts is {ts}")
    return ts
