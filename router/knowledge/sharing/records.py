"""What routers tell each other of their requests, and its form on the wire: a header, then records one behind another.

Little-endian structs; keys as they are, 8 bytes each. Fields that a replica's Stream names already are left out.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

VERSION = 1
MOST_KEYS = 16_384
"""Keys of one request that are told: 262,144 tokens in blocks of 16. What follows is load without a name."""
_LONGEST = 8 << 20
"""No entry of ours is longer [bytes]; what is, is not ours."""
_HEADER = struct.Struct("<BQQd")
_OPENED = struct.Struct("<BQIIHBfff")
_PREFILLED = struct.Struct("<BQ")
_SETTLED = struct.Struct("<BQBI")
_BEAT = struct.Struct("<BQQQBI")
_KIND_OPENED, _KIND_PREFILLED, _KIND_SETTLED = 1, 2, 3
_STREAMED, _BEGUN = 1, 2
_LONG = 1e9
"""Numbers that no request has: they would make followers refuse the whole entry."""
_U16, _U32 = (1 << 16) - 1, (1 << 32) - 1


class Malformed(ValueError):
    """Not what a router of this version writes."""


class Opened(msgspec.Struct, frozen=True, gc=False):
    """A request was sent to the replica."""

    order: int
    """Its lease's number at its router."""
    tokens: int
    hit: float
    """Tokens that the replica was believed to hold of it."""
    predicted: float
    """Its predicted TTFT [s]."""
    block_tokens: float
    sequences: int
    stream: bool
    prefilled: bool
    """It had its first output when this was written."""
    keys: bytes
    """8 bytes each."""

    def key_list(self) -> list[int]:
        """The keys as numbers."""
        keys: list[int] = np.frombuffer(self.keys, "<u8").tolist()
        return keys


class Prefilled(msgspec.Struct, frozen=True, gc=False):
    """Its prefill is over."""

    order: int


class Settled(msgspec.Struct, frozen=True, gc=False):
    """It is over."""

    order: int
    served: bool
    """Its prompt was computed."""
    output_tokens: int


Record: TypeAlias = Opened | Prefilled | Settled


class Header(msgspec.Struct, frozen=True, gc=False):
    """Whose records an entry holds."""

    router: int
    number: int
    """Of this router's entries in this Stream, counted from 1: a repeated one is known by it, and a lost one."""
    life: float
    """When the engine was started, as its router knew [s since 1970]; 0: unknown."""


class Beat(msgspec.Struct, frozen=True):
    """A router lives, and these are its open leases."""

    router: int
    number: int
    """Counted from 1."""
    newest: int
    """Its newest lease's number: later ones are not spoken of here."""
    leaving: bool
    """It is the last one."""
    open: frozenset[int]


def _words(numbers: Iterable[int]) -> bytes:
    words = array("Q", numbers)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def pack_header(header: Header) -> bytes:
    """What an entry begins with."""
    return _HEADER.pack(VERSION, header.router, header.number, header.life)


def pack_opened(
    order: int,
    tokens: int,
    hit: float,
    predicted: float,
    block_tokens: float,
    sequences: int,
    keys: Sequence[int],
    *,
    stream: bool,
    prefilled: bool,
) -> bytes:
    """An `Opened`; of more than MOST_KEYS keys the first ones are told."""
    told = _words(keys if len(keys) <= MOST_KEYS else keys[:MOST_KEYS])
    flags = (_STREAMED if stream else 0) | (_BEGUN if prefilled else 0)
    tokens = min(max(tokens, 0), _U32)
    head = _OPENED.pack(
        _KIND_OPENED,
        order,
        len(told) // 8,
        tokens,
        min(max(sequences, 1), _U16),
        flags,
        min(hit, tokens) if hit > 0.0 else 0.0,
        predicted if 0.0 <= predicted < _LONG else 0.0,
        block_tokens if 1 / _LONG < block_tokens < _LONG else 1.0,
    )
    return head + told


def pack_prefilled(order: int) -> bytes:
    """A `Prefilled`."""
    return _PREFILLED.pack(_KIND_PREFILLED, order)


def pack_settled(order: int, served: bool, output_tokens: int) -> bytes:
    """A `Settled`."""
    return _SETTLED.pack(_KIND_SETTLED, order, served, min(max(output_tokens, 0), _U32))


def unpack_header(data: bytes) -> Header:
    """What an entry begins with.

    Raises:
        Malformed: it does not begin so.
    """
    if not _HEADER.size <= len(data) <= _LONGEST or data[0] != VERSION:
        raise Malformed("an entry of another version or size")
    _, router, number, life = _HEADER.unpack_from(data)
    return Header(router, number, life if math.isfinite(life) else 0.0)


def unpack_records(data: bytes) -> Iterator[Record]:
    """The records of one entry, in order.

    Raises:
        Malformed: what comes next is no record.
    """
    at = _HEADER.size
    while at < len(data):
        try:
            record, at = _unpack(data, at)
        except struct.error as error:
            raise Malformed("a record is cut off") from error
        yield record


def _unpack(data: bytes, at: int) -> tuple[Record, int]:
    kind = data[at]
    if kind == _KIND_OPENED:
        return _unpack_opened(data, at)
    if kind == _KIND_PREFILLED:
        return Prefilled(_PREFILLED.unpack_from(data, at)[1]), at + _PREFILLED.size
    if kind == _KIND_SETTLED:
        _, order, served, output_tokens = _SETTLED.unpack_from(data, at)
        return Settled(order, bool(served), output_tokens), at + _SETTLED.size
    raise Malformed(f"a record of kind {kind}")


def _unpack_opened(data: bytes, at: int) -> tuple[Opened, int]:
    _, order, count, tokens, sequences, flags, hit, predicted, block_tokens = _OPENED.unpack_from(data, at)
    at += _OPENED.size
    end = at + 8 * count
    if end > len(data) or count > MOST_KEYS:
        raise Malformed("keys are cut off")
    if not (
        0.0 <= hit <= 1.001 * tokens + 1.0
        and 0.0 <= predicted < math.inf
        and 0.0 < block_tokens < math.inf
        and sequences
    ):
        raise Malformed("numbers that no request has")
    return (
        Opened(
            order,
            tokens,
            hit,
            predicted,
            block_tokens,
            sequences,
            bool(flags & _STREAMED),
            bool(flags & _BEGUN),
            data[at:end],
        ),
        end,
    )


def pack_beat(router: int, number: int, newest: int, open: Iterable[int], *, leaving: bool = False) -> bytes:
    """A `Beat`."""
    orders = _words(open)
    return _BEAT.pack(VERSION, router, number, newest, leaving, len(orders) // 8) + orders


def unpack_beat(data: bytes) -> Beat:
    """What a router said of itself.

    Raises:
        Malformed: it is no beat.
    """
    if not _BEAT.size <= len(data) <= _LONGEST or data[0] != VERSION:
        raise Malformed("a beat of another version or size")
    _, router, number, newest, leaving, count = _BEAT.unpack_from(data)
    if len(data) != _BEAT.size + 8 * count:
        raise Malformed("a beat is cut off")
    return Beat(
        router, number, newest, bool(leaving), frozenset(np.frombuffer(data, "<u8", offset=_BEAT.size).tolist())
    )
