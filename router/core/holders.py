"""Key -> the rows that hold it, at one medium. What writes here names lives of rows (`rowsets.py`)."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kvroute.router.core.chains import Chains, Mixing, once, repeats, view
from kvroute.router.core.changes import Words
from kvroute.router.core.rowsets import EMPTY, RowSets


class Holders(Chains):
    """A key's entry has the number of its set of rows. Every key here has a holder, if only a life that is over."""

    __slots__ = ("_doubles", "_rowsets", "_sets", "fresh")

    def __init__(self, mix: Mixing, rowsets: RowSets) -> None:
        super().__init__(mix)
        self._rowsets = rowsets
        self._sets = array("I", (0,))
        self.fresh: dict[int, int] = {}
        """Key -> rows, as bits, that hold it too, but are not entered here yet."""
        self._doubles: dict[int, dict[int, int]] = {}
        """Life -> key -> hashes beyond the first that the engine has for it. There is hardly ever one."""

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
        rows = self._rowsets.shown[self._sets[at]]
        fresh = self.fresh
        return rows | fresh[key] if key in fresh else rows

    def is_alone(self, life: int, key: int) -> bool:
        """Whether this life alone holds the key."""
        return self._rowsets.masks[self._sets[self.find(key)]] == 1 << life

    def runs(self, keys: Sequence[int]) -> list[tuple[int, int]]:
        """Who holds each of the keys: (last position, rows as bits) of each stretch with the same holders.

        A dozen calls of numpy whatever there is to find: for more than some fifty keys quicker than `holders` of each.
        """
        if not keys:
            return []
        numbers = view(self._sets)[self.find_many(np.array(keys, np.uint64))]
        changes = numbers[1:] != numbers[:-1]
        fresh: list[int] | None = None
        if not self.fresh.keys().isdisjoint(keys):
            fresh = list(map(self.fresh.get, keys, itertools.repeat(0)))
            more = np.array(fresh, np.object_)
            changes |= more[1:] != more[:-1]
        ends = np.append(np.flatnonzero(changes), len(keys) - 1)
        shown = self._rowsets.shown
        found = [(end, shown[number]) for end, number in zip(ends.tolist(), numbers[ends].tolist(), strict=True)]
        return found if fresh is None else [(end, rows | fresh[end]) for end, rows in found]

    def add(self, life: int, keys: Sequence[int]) -> list[int]:
        """The life holds each key, for one hash more. The keys that it did not hold are returned."""
        self.reserve(len(keys))
        factor, prime, low, high = self.factor, self.prime, self.low, self.high
        heads, links, words, sets, free = self.heads, self.links, self.words, self._sets, self.free
        buckets = len(heads)
        rowsets, bit = self._rowsets, 1 << life
        masks = rowsets.masks
        alone = rowsets.with_life(EMPTY, life)
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
                        self._double(life, key)
                        continue
                    rowsets.move(before, after, run)
                    before, after, run = held, rowsets.with_life(held, life), 0
                sets[at] = after
                run += 1
            new.append(key)
        rowsets.move(before, after, run)
        self.live += created
        rowsets.uses[alone] += created
        rowsets.settle(alone)
        return new

    def discard(self, life: int, keys: Sequence[int]) -> list[int]:
        """The life holds each key for one hash less. Those that nobody holds any more are returned.

        Raises:
            KeyError: the life does not hold such a key.
        """
        factor, prime, low, high = self.factor, self.prime, self.low, self.high
        heads, links, words, sets, free = self.heads, self.links, self.words, self._sets, self.free
        buckets = len(heads)
        rowsets, bit = self._rowsets, 1 << life
        masks = rowsets.masks
        doubles = self._doubles.get(life)
        before, after, run = -1, 0, 0
        gone = []
        for key in keys:
            if doubles and key in doubles:
                self._undouble(life, key)
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
                before, after, run = held, rowsets.without_life(held, life), 0
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

    def _double(self, life: int, key: int) -> None:
        doubles = self._doubles.setdefault(life, {})
        doubles[key] = doubles.get(key, 0) + 1

    def _undouble(self, life: int, key: int) -> None:
        doubles = self._doubles[life]
        doubles[key] -= 1
        if not doubles[key]:
            del doubles[key]
            if not doubles:
                del self._doubles[life]

    def lacks(self, life: int, keys: Words, found: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of the keys `add_many` may have: they are there once, and the life does not hold them; `found` are
        their entries."""
        masks = self._rowsets.masks
        if not found.any():
            return once(keys)
        numbers, index = np.unique(view(self._sets)[found], return_inverse=True)
        lacking = np.array([not masks[held] >> life & 1 for held in numbers.tolist()])[index]
        return lacking & once(keys)

    def load(self, life: int, keys: Words) -> Words:
        """`add_many` of keys that may repeat, for a life that holds nothing."""
        if repeats(keys):
            keys, times = np.unique(keys, return_counts=True)
            more = times > 1
            self._doubles[life] = dict(zip(keys[more].tolist(), (times[more] - 1).tolist(), strict=True))
        return self.add_many(life, keys, self.find_many(keys))

    def add_many(self, life: int, keys: Words, found: NDArray[np.intp]) -> Words:
        """`add` of distinct keys at once, for a life that holds none of them; `found` are their entries, 0 for none.
        Returned are those that nobody held."""
        new = found == 0
        self._move_many(found[~new], life, self._rowsets.with_life)
        created = self.insert_many(keys[new])
        alone = self._rowsets.with_life(EMPTY, life)
        self._rowsets.uses[alone] += len(created)
        self._rowsets.settle(alone)
        view(self._sets)[created] = alone
        first: Words = keys[new]
        return first

    def discard_many(self, life: int, keys: Words) -> Words:
        """A part of what a life held that is over. Returned are those keys that no life holds now."""
        entries = self.find_many(np.unique(keys) if life in self._doubles else keys)
        entries = entries[entries > 0]
        self._move_many(entries, life, self._rowsets.without_life)
        gone = entries[view(self._sets)[entries] == EMPTY]
        left: Words = view(self.words)[gone]
        self.delete_many(gone)
        return left

    def forget(self, life: int) -> None:
        """The last part of this life was discarded."""
        self._doubles.pop(life, None)

    def _move_many(self, entries: NDArray[np.intp], life: int, change: Callable[[int, int], int]) -> None:
        """Take a life into the sets of distinct entries, which lack it, or out of those that have it."""
        if not len(entries):
            return
        rowsets, sets = self._rowsets, view(self._sets)
        old, index, times = np.unique(sets[entries], return_inverse=True, return_counts=True)
        new = []
        for held, blocks in zip(old.tolist(), times.tolist(), strict=True):
            number = held
            if change == rowsets.with_life or rowsets.masks[held] >> life & 1:
                number = change(held, life)
                rowsets.move(held, number, blocks)
            new.append(number)
        sets[entries] = np.array(new, np.uint32)[index]
