"""Which replicas hold which block, and the longest cached prefix of a prompt for all replicas in one pass.

Two sides tell it. *Expected*: what `occupancy` believes from what was sent, in a table here: each block key maps to the
set of its holders, as the bits of one unlimited integer: bit r = the replica in row r. *Observed*: what KV events told,
in `observed`, with sets of the same form. A replica holds what either side says.

Lookups rely on one property: *whoever holds a block holds its parents*. Engines evict the tail of a chain first, and
`occupancy` does as they do; a writer that cannot promise it must not add blocks behind a hole. Holders can then only
become fewer along a chain, so `lookup` gallops from one change of holders to the next and never reads the blocks
between.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvroute.router.core.changes import Medium
from kvroute.router.core.observed import Observed

Holders: TypeAlias = Callable[[int, int], int]
"""(key, 0) -> the rows that hold it."""
_MANY = 8
"""Changes of holders after which a long lookup stops galloping."""
_LONG = 128
"""Blocks left that are worth being read at once."""
_SHORT = 16
"""Blocks up to which a prompt is read from its first to its last."""
_REMEMBERED = 4096
"""Sets of holders whose rows are kept unpacked; a fleet has few at a time."""


class Index:
    """Block key -> replicas (rows) that hold it. Rows are small integers without an upper bound."""

    __slots__ = ("_blocks", "_expected", "_unpacked", "observed")

    def __init__(self, observed: Observed | None = None) -> None:
        self._expected: dict[int, int] = {}
        self._blocks: dict[int, int] = {}
        self._unpacked: dict[int, NDArray[np.intp]] = {}
        self.observed = Observed() if observed is None else observed

    def __len__(self) -> int:
        """Distinct blocks expected at anyone."""
        return len(self._expected)

    def _holders(self) -> Holders:
        """Who holds a block on the GPU. Without KV events the expected side alone, which is four times as quick."""
        return self._either if self.observed else self._expected.get

    def _either(self, key: int, nobody: int) -> int:
        return self._expected.get(key, nobody) | self.observed.holders(key)

    def _within(self, reach: int) -> Holders:
        expected, within = self._expected.get, self.observed.holders_within

        def get(key: int, nobody: int) -> int:
            return expected(key, nobody) | within(key, reach)

        return get

    def lookup(self, keys: Sequence[int], out: NDArray[np.float64], reach: int = Medium.GPU, unit: float = 1.0) -> None:
        """Set `out[row]` to the number of leading `keys` that the row holds, times `unit`, and all others to zero.

        `reach` is the slowest medium that counts.
        `out` has an element for every row that was ever added to. Cost: about two reads of the table per doubling of
        each stretch with the same holders, whatever the number of rows.
        """
        out.fill(0.0)
        if not keys:
            return
        get = self._within(reach) if reach else self._holders()
        if len(keys) <= _SHORT:
            self._walk(get, keys, out, unit)
            return
        last = len(keys) - 1
        holders = get(keys[0], 0)
        at = stretches = 0
        while holders:
            at = _stretch(get, keys, at, last, holders)
            stretches += 1
            at += 1
            if at > last or (stretches == _MANY and last - at > _LONG and get == self._either):
                self._finish(keys, at, holders, out, unit)
                return
            left = holders & get(keys[at], 0)
            self._set(out, holders ^ left, at * unit)
            holders = left

    def _walk(self, get: Holders, keys: Sequence[int], out: NDArray[np.float64], unit: float = 1.0) -> None:
        """A lookup that reads every block up to the last that somebody holds: a short chain is not worth galloping."""
        holders = -1
        for at, key in enumerate(keys):
            left = holders & get(key, 0)
            if left != holders:
                if at:
                    self._set(out, holders ^ left, at * unit)
                if not left:
                    return
                holders = left
        self._set(out, holders, len(keys) * unit)

    def _finish(self, keys: Sequence[int], at: int, holders: int, out: NDArray[np.float64], unit: float = 1.0) -> None:
        """The rest of a lookup, where `holders` hold all before `at`: reads all that was observed at once.

        Many changes of holders cost galloping some ten reads each, and a read of a large table waits for the memory.
        """
        expected = self._expected.get
        first = at
        for end, observed in self.observed.runs(keys[at:]):
            end += first
            while at <= end:
                if observed & holders == holders:
                    at = end + 1
                    break
                left = holders & (observed | expected(keys[at], 0))
                self._set(out, holders ^ left, at * unit)
                if not left:
                    return
                holders = left
                alone = holders & ~observed
                if alone:
                    at = _stretch(expected, keys, at, end, alone) + 1
        self._set(out, holders, at * unit)

    def _set(self, out: NDArray[np.float64], rows: int, depth: float) -> None:
        """Write a depth for a set of rows, mostly of one."""
        if not rows & (rows - 1):
            if rows:
                out[rows.bit_length() - 1] = depth
            return
        listed = self._unpacked.get(rows)
        out[self._unpack(rows) if listed is None else listed] = depth

    def depths(self, keys: Sequence[int], rows: Sequence[int]) -> list[int]:
        """`lookup` for few rows: how many leading `keys` each of `rows` holds."""
        found = [0] * len(rows)
        if not keys:
            return found
        get = self._holders()
        last = len(keys) - 1
        holders = get(keys[0], 0)
        at = 0
        while holders:
            at = _stretch(get, keys, at, last, holders)
            for i, row in enumerate(rows):
                if holders >> row & 1:
                    found[i] = at + 1
            if at == last:
                break
            at += 1
            holders &= get(keys[at], 0)
        return found

    def _unpack(self, holders: int) -> NDArray[np.intp]:
        """The rows in a set of holders, remembered."""
        if len(self._unpacked) >= _REMEMBERED:
            self._unpacked.clear()
        packed = np.frombuffer(holders.to_bytes((holders.bit_length() + 7) // 8, "little"), np.uint8)
        rows = np.flatnonzero(np.unpackbits(packed, bitorder="little"))
        self._unpacked[holders] = rows
        return rows

    def add(self, row: int, keys: Iterable[int]) -> None:
        """The row is expected to hold these blocks too. Adding what it holds already changes nothing."""
        new = keys if isinstance(keys, list) else list(keys)
        holders = self._expected
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
        """The row is no longer expected to hold these blocks. Removing what it does not hold changes nothing."""
        holders = self._expected
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
        """Nothing is expected at the row any more. Reads the whole table unless all was removed before."""
        if self._blocks.pop(row, 0):
            bit = 1 << row
            holders = self._expected
            self._expected = {key: left for key, held in holders.items() if (left := held & ~bit)}

    def holds(self, row: int, key: int) -> bool:
        """Whether the row holds this block, on its GPU."""
        return bool(self._either(key, 0) >> row & 1)

    def blocks(self, row: int) -> int:
        """How many blocks the row is expected to hold."""
        return self._blocks.get(row, 0)


def _stretch(get: Holders, keys: Sequence[int], at: int, last: int, holders: int) -> int:
    """The last depth from `at` on that all of `holders` hold: galloping, then bisection."""
    if get(keys[last], 0) & holders == holders:
        return last
    end = last
    step = 1
    while at + step < end:
        if get(keys[at + step], 0) & holders == holders:
            at += step
            step += step
        else:
            end = at + step
    while end - at > 1:
        middle = (at + end) >> 1
        if get(keys[middle], 0) & holders == holders:
            at = middle
        else:
            end = middle
    return at
