"""What one replica holds at one medium: the engine's hash -> our key, and how many times it was announced."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvroute.router.core.chains import Chains, Mixing, once, view
from kvroute.router.core.changes import Words

MOST = 2**16 - 1
"""Announcements that are counted; what comes beyond is not."""


class Held(Chains):
    """A hash's entry has our key and a count, which is 0 only for entries given back."""

    __slots__ = ("_counts", "_keys")

    def __init__(self, mix: Mixing) -> None:
        super().__init__(mix)
        self._keys = array("Q", (0,))
        self._counts = array("H", (0,))

    def _columns(self) -> tuple[array[int], ...]:
        return self._keys, self._counts

    def key_of(self, hash_: int) -> int | None:
        """Our key behind the engine's hash."""
        at = self.find(hash_)
        return self._keys[at] if at else None

    def store(self, hashes: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[int]]:
        """Count each hash once more. Returned: the keys that hashes stand for newly, and those that they replaced."""
        self.reserve(len(hashes))
        factor, prime, low, high = self.factor, self.prime, self.low, self.high
        heads, links, words, free = self.heads, self.links, self.words, self.free
        behind, counts = self._keys, self._counts
        buckets = len(heads)
        new = []
        replaced = []
        created = 0
        end = len(words)
        for hash_, key in zip(hashes, keys, strict=True):
            bucket = hash_ * factor % prime & high
            if bucket >= buckets:
                bucket &= low
            at = head = heads[bucket]
            while at and words[at] != hash_:
                at = links[at]
            if not at:
                if free:
                    at = free.pop()
                    words[at] = hash_
                    links[at] = head
                    behind[at] = key
                    counts[at] = 1
                else:
                    at, end = end, end + 1
                    words.append(hash_)
                    links.append(head)
                    behind.append(key)
                    counts.append(1)
                heads[bucket] = at
                created += 1
                new.append(key)
                continue
            if counts[at] < MOST:
                counts[at] += 1
            if behind[at] != key:
                replaced.append(behind[at])
                new.append(key)
                behind[at] = key
        self.live += created
        return new, replaced

    def remove(self, hashes: Sequence[int]) -> tuple[list[int], int]:
        """Count each hash once less. Returned: the keys of those that are gone, and how many hashes were unknown."""
        factor, prime, low, high = self.factor, self.prime, self.low, self.high
        heads, links, words, free = self.heads, self.links, self.words, self.free
        behind, counts = self._keys, self._counts
        buckets = len(heads)
        gone = []
        unknown = 0
        for hash_ in hashes:
            bucket = hash_ * factor % prime & high
            if bucket >= buckets:
                bucket &= low
            previous, at = 0, heads[bucket]
            while at and words[at] != hash_:
                previous, at = at, links[at]
            if not at:
                unknown += 1
                continue
            counts[at] -= 1
            if not counts[at]:
                if previous:
                    links[previous] = links[at]
                else:
                    heads[bucket] = links[at]
                free.append(at)
                gone.append(behind[at])
        self.live -= len(gone)
        return gone, unknown

    def lacks(self, hashes: Words) -> NDArray[np.bool_]:
        """Which of the hashes `fill` may have: they are there once, and not here yet."""
        lacking: NDArray[np.bool_] = (self.find_many(hashes) == 0) & once(hashes)
        return lacking

    def fill(self, hashes: Words, keys: Words, counts: NDArray[np.uint16]) -> None:
        """All at once: hashes that are distinct and not there yet, with counts above zero."""
        entries = self.insert_many(hashes)
        view(self._keys)[entries] = keys
        view(self._counts)[entries] = counts

    def part(self, first: int, last: int) -> Words:
        """The keys behind the entries of that stretch; entries are numbered from 1."""
        held = view(self._counts)[first:last] > 0
        keys: Words = view(self._keys)[first:last][held]
        return keys

    def contents(self) -> tuple[Words, Words, NDArray[np.uint16]]:
        """Copies of all hashes, their keys and counts, in no order."""
        counts = view(self._counts)
        at = np.flatnonzero(counts)
        return view(self.words)[at], view(self._keys)[at], counts[at]
