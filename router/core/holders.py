"""Key -> the rows that hold it, at one medium."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvroute.router.core.chains import Chains, Mixing, repeats, view
from kvroute.router.core.changes import Words
from kvroute.router.core.rowsets import RowSets


class Holders(Chains):
    """A key's entry has the number of its set of rows. Every key here has a holder."""

    __slots__ = ("_doubles", "_rowsets", "_sets")

    def __init__(self, mix: Mixing, rowsets: RowSets) -> None:
        super().__init__(mix)
        self._rowsets = rowsets
        self._sets = array("I", (0,))
        self._doubles: dict[int, dict[int, int]] = {}
        """Row -> key -> hashes beyond the first that the engine has for it. There is hardly ever one."""

    def _columns(self) -> tuple[array[int], ...]:
        return (self._sets,)

    def holders(self, key: int) -> int:
        """The rows that hold the key: bit r for row r."""
        bucket = key * self.factor % self.prime & self.high
        heads = self.heads
        at = heads[bucket if bucket < len(heads) else bucket & self.low]
        words = self.words
        while at and words[at] != key:
            at = self.links[at]
        return self._rowsets.masks[self._sets[at]]

    def runs(self, keys: Sequence[int]) -> list[tuple[int, int]]:
        """Who holds each of the keys: (last position, rows as bits) of each stretch with the same holders.

        A dozen calls of numpy whatever there is to find: for more than some fifty keys quicker than `holders` of each.
        """
        if not keys:
            return []
        numbers = view(self._sets)[self.find_many(np.array(keys, np.uint64))]
        ends = np.append(np.flatnonzero(numbers[1:] != numbers[:-1]), len(keys) - 1)
        masks = self._rowsets.masks
        return [(end, masks[number]) for end, number in zip(ends.tolist(), numbers[ends].tolist(), strict=True)]

    def add(self, row: int, keys: Sequence[int]) -> list[int]:
        """The row holds each key, for one hash more. The keys that it did not hold are returned."""
        self.reserve(len(keys))
        factor, prime, low, high = self.factor, self.prime, self.low, self.high
        heads, links, words, sets, free = self.heads, self.links, self.words, self._sets, self.free
        buckets = len(heads)
        rowsets, bit = self._rowsets, 1 << row
        masks = rowsets.masks
        alone = rowsets.number(bit)
        before = after = created = run = 0
        new = []
        end = len(words)
        for key in keys:
            bucket = key * factor % prime & high
            if bucket >= buckets:
                bucket &= low
            at = head = heads[bucket]
            while at and words[at] != key:
                at = links[at]
            if not at:
                if free:
                    at = free.pop()
                    words[at] = key
                    links[at] = head
                    sets[at] = alone
                else:
                    at, end = end, end + 1
                    words.append(key)
                    links.append(head)
                    sets.append(alone)
                heads[bucket] = at
                created += 1
            else:
                held = sets[at]
                if held != before:
                    if masks[held] & bit:
                        self._double(row, key)
                        continue
                    rowsets.move(before, after, run)
                    before, after, run = held, rowsets.number(masks[held] | bit), 0
                sets[at] = after
                run += 1
            new.append(key)
        rowsets.move(before, after, run)
        self.live += created
        rowsets.uses[alone] += created
        rowsets.settle(alone)
        return new

    def discard(self, row: int, keys: Sequence[int]) -> list[int]:
        """The row holds each key for one hash less. Those that nobody holds any more are returned.

        Raises:
            KeyError: the row does not hold such a key.
        """
        factor, prime, low, high = self.factor, self.prime, self.low, self.high
        heads, links, words, sets, free = self.heads, self.links, self.words, self._sets, self.free
        buckets = len(heads)
        rowsets, bit = self._rowsets, 1 << row
        masks = rowsets.masks
        doubles = self._doubles.get(row)
        before, after, run = -1, 0, 0
        gone = []
        for key in keys:
            if doubles and key in doubles:
                self._undouble(row, key)
                continue
            bucket = key * factor % prime & high
            if bucket >= buckets:
                bucket &= low
            previous, at = 0, heads[bucket]
            while at and words[at] != key:
                previous, at = at, links[at]
            held = sets[at] if at else 0
            if held != before:
                if not masks[held] & bit:
                    raise KeyError(key)
                if run:
                    rowsets.move(before, after, run)
                before, after, run = held, rowsets.number(masks[held] ^ bit), 0
            run += 1
            sets[at] = after
            if not after:
                if previous:
                    links[previous] = links[at]
                else:
                    heads[bucket] = links[at]
                free.append(at)
                gone.append(key)
        if run:
            rowsets.move(before, after, run)
        self.live -= len(gone)
        self.shrink()
        return gone

    def _double(self, row: int, key: int) -> None:
        doubles = self._doubles.setdefault(row, {})
        doubles[key] = doubles.get(key, 0) + 1

    def _undouble(self, row: int, key: int) -> None:
        doubles = self._doubles[row]
        doubles[key] -= 1
        if not doubles[key]:
            del doubles[key]
            if not doubles:
                del self._doubles[row]

    def fits(self, row: int, keys: Words) -> bool:
        """Whether `add_many` may have these keys: they are distinct, and the row holds none."""
        if repeats(keys):
            return False
        entries = self.find_many(keys)
        masks = self._rowsets.masks
        return not any(masks[held] >> row & 1 for held in np.unique(view(self._sets)[entries]).tolist())

    def add_many(self, row: int, keys: Words) -> Words:
        """`add` of many keys at once, for a row that holds none of them. Returned are those that nobody held."""
        distinct = keys
        if repeats(keys):
            distinct, times = np.unique(keys, return_counts=True)
            more = times > 1
            extra = (times[more] - 1).tolist()
            self._doubles[row] = dict(zip(distinct[more].tolist(), extra, strict=True))
        found = self.find_many(distinct)
        new = found == 0
        self._move_many(found[~new], 1 << row)
        created = self.insert_many(distinct[new])
        alone = self._rowsets.number(1 << row)
        self._rowsets.uses[alone] += len(created)
        self._rowsets.settle(alone)
        view(self._sets)[created] = alone
        first: Words = distinct[new]
        return first

    def discard_many(self, row: int, keys: Words) -> Words:
        """The row holds nothing any more; `keys` are all that it held. Returned are those that nobody holds now."""
        entries = self.find_many(np.unique(keys) if self._doubles.pop(row, None) else keys)
        self._move_many(entries, 1 << row)
        gone = entries[view(self._sets)[entries] == 0]
        left: Words = view(self.words)[gone]
        self.delete_many(gone)
        return left

    def _move_many(self, entries: NDArray[np.intp], bit: int) -> None:
        """Take a row into the sets of distinct entries, or out of them: all have it, or none."""
        if not len(entries):
            return
        rowsets, sets = self._rowsets, view(self._sets)
        old, index, times = np.unique(sets[entries], return_inverse=True, return_counts=True)
        new = []
        for held, blocks in zip(old.tolist(), times.tolist(), strict=True):
            number = rowsets.number(rowsets.masks[held] ^ bit)
            rowsets.move(held, number, blocks)
            new.append(number)
        sets[entries] = np.array(new, np.uint32)[index]
