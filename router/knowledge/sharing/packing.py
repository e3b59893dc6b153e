"""Changes and tables of blocks as bytes: little-endian columns, copied and never parsed item by item."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from kvroute.router.core.changes import Change, Cleared, Medium, Removed, Stored, Words
from kvroute.router.core.observed import Contents

PAIR_BYTES = 16
"""A hash and its key."""
PART_PAIRS = 16_000
"""Pairs in one part of a table: a little below 256 KiB, so that the server's allocator wastes nothing."""

_CHANGE = struct.Struct("<BBxxI")
"""Kind, medium, number of hashes."""
_PART = struct.Struct("<BxxxII")
"""Medium, pairs, pairs with a count other than one."""
_STORED, _REMOVED, _CLEARED = 1, 2, 3
_WORD = np.dtype("<u8")
_PLACE = np.dtype("<u4")
_COUNT = np.dtype("<u2")


def pack(changes: Sequence[Change]) -> bytes:
    """Changes as bytes, in order: 16 bytes for each block stored, 8 for each removed, 8 for each change."""
    parts: list[bytes] = []
    for change in changes:
        if isinstance(change, Stored):
            parts += (_CHANGE.pack(_STORED, change.medium, len(change.hashes)), _words(change.hashes))
            parts.append(_words(change.keys))
        elif isinstance(change, Removed):
            parts += (_CHANGE.pack(_REMOVED, change.medium, len(change.hashes)), _words(change.hashes))
        else:
            parts.append(_CHANGE.pack(_CLEARED, 0, 0))
    return b"".join(parts)


def _words(words: Words) -> bytes:
    return words.astype(_WORD, copy=False).tobytes()


def unpack(data: bytes | memoryview) -> tuple[Change, ...]:
    """The changes in `data`.

    Raises:
        ValueError: these are not the bytes of `pack`.
    """
    data = memoryview(data)
    found: list[Change] = []
    at = 0
    while at < len(data):
        if len(data) - at < _CHANGE.size:
            raise ValueError("a change is cut short")
        kind, medium, count = _CHANGE.unpack_from(data, at)
        at += _CHANGE.size
        if kind == _CLEARED:
            found.append(Cleared())
            continue
        columns = _columns(data, at, _medium(medium), count, {_STORED: 2, _REMOVED: 1}.get(kind, 0))
        at += 8 * count * len(columns)
        found.append(Stored(medium, *columns) if kind == _STORED else Removed(medium, *columns))
    return tuple(found)


def _columns(data: memoryview, at: int, medium: int, count: int, columns: int) -> list[Words]:
    if not columns or len(data) - at < 8 * count * columns:
        raise ValueError("a change is of no known kind, or cut short")
    found = (np.frombuffer(data, _WORD, count, at + 8 * count * column) for column in range(columns))
    return [column.astype(np.uint64, copy=False) for column in found]


def _medium(medium: int) -> int:
    """The same, if there is such a medium; else ValueError."""
    return Medium(medium).value


def size(change: Change) -> int:
    """Bytes of a packed change."""
    if isinstance(change, Cleared):
        return _CHANGE.size
    return _CHANGE.size + len(change.hashes) * (PAIR_BYTES if isinstance(change, Stored) else 8)


def parts(contents: Sequence[Contents]) -> Iterator[bytes]:
    """A table in parts of at most `PART_PAIRS` pairs, each packed when it is asked for: 16 bytes a pair, 6 more where
    the engine holds a hash several times."""
    for medium, hashes, keys, counts in contents:
        for at in range(0, len(hashes), PART_PAIRS):
            rows = slice(at, at + PART_PAIRS)
            several = np.flatnonzero(counts[rows] != 1)
            yield b"".join(
                (
                    _PART.pack(medium, len(hashes[rows]), len(several)),
                    _words(hashes[rows]),
                    _words(keys[rows]),
                    several.astype(_PLACE).tobytes(),
                    counts[rows][several].astype(_COUNT).tobytes(),
                )
            )


def pairs(contents: Sequence[Contents]) -> int:
    """Pairs in a table, all media together."""
    return sum(len(hashes) for _, hashes, _, _ in contents)


def part_count(contents: Sequence[Contents]) -> int:
    """How many `parts` there will be."""
    return sum(-(-len(hashes) // PART_PAIRS) for _, hashes, _, _ in contents)


def pieces(part: bytes, most: int) -> Iterator[Contents]:
    """What one of the `parts` of a table holds, at most so many pairs at once.

    Raises:
        ValueError: it is the part of no table.
    """
    medium, hashes, keys, counts = _part(part)
    for at in range(0, len(hashes), most):
        rows = slice(at, at + most)
        yield medium, hashes[rows], keys[rows], counts[rows]


def _part(data: bytes) -> Contents:
    if len(data) < _PART.size:
        raise ValueError("a part is cut short")
    medium, count, several = _PART.unpack_from(data)
    if len(data) != _PART.size + PAIR_BYTES * count + (_PLACE.itemsize + _COUNT.itemsize) * several:
        raise ValueError("a part has another length than it says")
    hashes, keys = _columns(memoryview(data), _PART.size, _medium(medium), count, 2)
    at = _PART.size + PAIR_BYTES * count
    places = np.frombuffer(data, _PLACE, several, at)
    if several and int(places.max()) >= count:
        raise ValueError("a count of a pair that is not there")
    counts = np.ones(count, np.uint16)
    counts[places] = np.frombuffer(data, _COUNT, several, at + _PLACE.itemsize * several)
    return medium, hashes, keys, counts
