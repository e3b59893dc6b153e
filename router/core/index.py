"""Which replicas hold which block: one table, and the longest cached prefix of a prompt for all replicas in one pass.

Each block key maps to the set of its holders, as the bits of one unlimited integer: bit r = the replica in row r. The
table relies on one property: *whoever holds a block holds its parents*. Engines evict the tail of a chain first, and
`occupancy` does as they do, so it holds there; a writer that cannot promise it must not add blocks behind a hole.
Holders can then only become fewer along a chain, so `lookup` gallops from one change of holders to the next and never
reads the blocks between.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

_REMEMBERED = 4096
"""Sets of holders whose rows are kept unpacked; a fleet has few at a time."""


class Index:
    """Block key -> replicas (rows) that hold it. Rows are small integers without an upper bound."""

    __slots__ = ("_blocks", "_holders", "_unpacked")

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._blocks: dict[int, int] = {}
        self._unpacked: dict[int, NDArray[np.intp]] = {}

    def __len__(self) -> int:
        """Distinct blocks held by anyone."""
        return len(self._holders)

    def lookup(self, keys: Sequence[int], out: NDArray[np.float64]) -> None:
        """Set `out[row]` to the number of leading `keys` that the row holds, and every other element to zero.

        `out` has an element for every row that was ever added to. Cost: about two reads of the table per doubling of
        each stretch with the same holders, whatever the number of rows.
        """
        out.fill(0.0)
        if not keys:
            return
        get = self._holders.get
        last = len(keys) - 1
        holders = get(keys[0], 0)
        at = 0
        while holders:
            at = self._stretch(keys, at, last, holders)
            rows = self._unpacked.get(holders)
            out[self._unpack(holders) if rows is None else rows] = at + 1
            if at == last:
                return
            at += 1
            holders &= get(keys[at], 0)

    def depths(self, keys: Sequence[int], rows: Sequence[int]) -> list[int]:
        """`lookup` for few rows: how many leading `keys` each of `rows` holds."""
        found = [0] * len(rows)
        if not keys:
            return found
        get = self._holders.get
        last = len(keys) - 1
        holders = get(keys[0], 0)
        at = 0
        while holders:
            at = self._stretch(keys, at, last, holders)
            for i, row in enumerate(rows):
                if holders >> row & 1:
                    found[i] = at + 1
            if at == last:
                break
            at += 1
            holders &= get(keys[at], 0)
        return found

    def _stretch(self, keys: Sequence[int], at: int, last: int, holders: int) -> int:
        """The last depth from `at` on that is held by exactly `holders`: galloping, then bisection."""
        get = self._holders.get
        if get(keys[last], 0) == holders:
            return last
        end = last
        step = 1
        while at + step < end:
            if get(keys[at + step], 0) == holders:
                at += step
                step += step
            else:
                end = at + step
        while end - at > 1:
            middle = (at + end) >> 1
            if get(keys[middle], 0) == holders:
                at = middle
            else:
                end = middle
        return at

    def _unpack(self, holders: int) -> NDArray[np.intp]:
        """The rows in a set of holders, remembered."""
        if len(self._unpacked) >= _REMEMBERED:
            self._unpacked.clear()
        packed = np.frombuffer(holders.to_bytes((holders.bit_length() + 7) // 8, "little"), np.uint8)
        rows = np.flatnonzero(np.unpackbits(packed, bitorder="little"))
        self._unpacked[holders] = rows
        return rows

    def add(self, row: int, keys: Iterable[int]) -> None:
        """The row now holds these blocks too. Adding what it holds already changes nothing."""
        new = keys if isinstance(keys, list) else list(keys)
        holders = self._holders
        bit = 1 << row
        if holders.keys().isdisjoint(new):  # the usual case, at the speed of C
            before = len(holders)
            holders.update(dict.fromkeys(new, bit))
            added = len(holders) - before
        else:
            added = 0
            for key in new:
                held = holders.get(key, 0)
                if not held & bit:
                    holders[key] = held | bit
                    added += 1
        self._blocks[row] = self._blocks.get(row, 0) + added

    def remove(self, row: int, keys: Sequence[int]) -> None:
        """The row no longer holds these blocks. Removing what it does not hold changes nothing."""
        holders = self._holders
        bit = 1 << row
        sets = list(map(holders.pop, keys, itertools.repeat(0)))
        removed = sets.count(bit)
        if removed < len(sets):  # others hold some of them
            for key, held in zip(keys, sets, strict=True):
                if held & bit:
                    removed += held != bit
                    held ^= bit
                if held:
                    holders[key] = held
        if removed:
            self._blocks[row] -= removed

    def drop(self, row: int) -> None:
        """The row holds nothing any more. Reads the whole table unless all was removed before: see `remove`."""
        if self._blocks.pop(row, 0):
            bit = 1 << row
            holders = self._holders
            self._holders = {key: left for key, held in holders.items() if (left := held & ~bit)}

    def holds(self, row: int, key: int) -> bool:
        """Whether the row holds this block."""
        return bool(self._holders.get(key, 0) >> row & 1)

    def blocks(self, row: int) -> int:
        """How many blocks the row holds."""
        return self._blocks.get(row, 0)
