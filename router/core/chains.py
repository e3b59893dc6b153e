"""Words of 64 bits, each with an entry number: a hash table in columns, some 16 bytes a word, that never stalls.

Theory of operation. Entries are numbers into columns: `array`s, whose elements Python reads faster than numpy's, and
which numpy sees without a copy. Those of one bucket hang on a chain: `heads[bucket]` is the first, `links[entry]` the
next, and entry 0 the end of every chain. The table grows by linear hashing: buckets are split a stretch at a time, in
order, and a word's bucket is its mix modulo the next power of two, or the one before where that bucket does not exist
yet. Nothing else moves, so an entry's number is good for its life, and the largest pause is that of one stretch.

The mix is `word * factor % prime`, both drawn from a secret seed: who chooses the words cannot choose the chains.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from kvroute.router.core.changes import Words

_LEAST = 64
"""Buckets of an empty table."""
_STRETCH = 2048
"""Buckets split at once, at most: about a millisecond."""

_GONE = 2**32 - 1
_TYPES: dict[str, np.dtype[np.unsignedinteger[Any]]] = {
    "Q": np.dtype(np.uint64),
    "I": np.dtype(np.uint32),
    "H": np.dtype(np.uint16),
}


class Mixing(NamedTuple):
    """How words are spread over buckets."""

    factor: int
    prime: int


def mixing(seed: int) -> Mixing:
    """Two secrets from one: a prime of 30 bits, so that all after it is arithmetic on small numbers, and a factor."""
    digest = xxhash.xxh3_128_intdigest(seed.to_bytes(16, "little"))
    prime = 2**29 + digest % 2**28 | 1
    while any(prime % divisor == 0 for divisor in range(3, 2**15, 2)):
        prime += 2
    return Mixing(2 + (digest >> 64) % (prime - 3), prime)


class Chains:
    """Word -> entry number, from 1. A subclass adds columns of its own and names them in `_columns`."""

    __slots__ = ("factor", "free", "heads", "high", "links", "live", "low", "prime", "words")

    def __init__(self, mix: Mixing) -> None:
        self.factor, self.prime = mix
        self.live = 0
        """Words held."""
        self.words = array("Q", (0,))
        self.links = array("I", (0,))
        self.free = array("I")
        """Entries given back, which are used again first."""
        self.heads = array("I", bytes(4 * _LEAST))
        self.low = _LEAST - 1
        self.high = 2 * _LEAST - 1

    def _columns(self) -> tuple[array[int], ...]:
        """The subclass's own columns, an element per entry."""
        return ()

    def bucket(self, word: int) -> int:
        """Where the word's chain begins. Loops that must be fast have these lines in themselves."""
        bucket = word * self.factor % self.prime & self.high
        return bucket if bucket < len(self.heads) else bucket & self.low

    def find(self, word: int) -> int:
        """The word's entry, or 0."""
        words, links = self.words, self.links
        at = self.heads[self.bucket(word)]
        while at and words[at] != word:
            at = links[at]
        return at

    def find_many(self, words: Words) -> NDArray[np.intp]:
        """Each word's entry, or 0."""
        mine, links = view(self.words), view(self.links)
        at = view(self.heads)[self._buckets(words)].astype(np.intp)
        wrong = mine[at] != words
        wrong &= at != 0
        open_ = np.flatnonzero(wrong)
        while len(open_):
            following = links[at[open_]].astype(np.intp)
            at[open_] = following
            wrong = mine[following] != words[open_]
            wrong &= following != 0
            open_ = open_[wrong]
        return at

    def reserve(self, more: int) -> None:
        """Make room for so many more words: call it before they are linked."""
        wanted = self.live + more
        while len(self.heads) < wanted:
            self._split()

    def shrink(self) -> None:
        """Give the memory back if nothing is held; entries that were given back one by one are kept for the next."""
        if not self.live and len(self.words) > _LEAST:
            for column in (self.words, self.links, *self._columns()):
                del column[1:]
            del self.free[:], self.heads[_LEAST:]
            view(self.heads)[:] = 0
            self.low, self.high = _LEAST - 1, 2 * _LEAST - 1

    def insert_many(self, words: Words) -> NDArray[np.intp]:
        """Entries for distinct words that are not in the table; the subclass's columns are theirs to fill."""
        self.reserve(len(words))
        self.live += len(words)
        again = len(words) if len(words) < len(self.free) else len(self.free)
        reused = np.array(self.free[len(self.free) - again :], np.intp)
        del self.free[len(self.free) - again :]
        first, fresh = len(self.words), len(words) - again
        for column in (self.words, self.links, *self._columns()):
            column.frombytes(bytes(column.itemsize * fresh))
        entries = np.concatenate((reused, np.arange(first, first + fresh)))
        view(self.words)[entries] = words
        self._link(entries, self._buckets(words))
        return entries

    def delete_many(self, entries: NDArray[np.intp]) -> None:
        """Give these distinct entries back."""
        if not len(entries):
            return
        heads, links = view(self.heads), view(self.links)
        buckets = self._buckets(view(self.words)[entries])
        firsts = heads[buckets]
        heads[buckets] = numbers = np.arange(len(entries))
        once = heads[buckets] == numbers  # where entries share a bucket the last was written: sorting takes longer
        buckets = buckets[once]
        heads[buckets] = firsts[once]
        members = self._members(buckets)
        heads[buckets] = 0
        links[entries] = _GONE
        left = members[links[members] != _GONE]
        self._link(left, self._buckets(view(self.words)[left]))
        self.free.frombytes(entries.astype(np.uint32).tobytes())
        self.live -= len(entries)
        del heads, links  # views would keep their columns from shrinking
        self.shrink()

    def _buckets(self, words: Words) -> NDArray[np.intp]:
        prime = np.uint64(self.prime)
        bucket = (words % prime * np.uint64(self.factor) % prime).astype(np.intp)
        bucket &= self.high
        np.bitwise_and(bucket, self.low, out=bucket, where=bucket >= len(self.heads))
        return bucket

    def _split(self) -> None:
        """Divide the next stretch of buckets: each gives the words of its upper half to a new one."""
        first = len(self.heads)
        stretch = min(_STRETCH, self.high + 1 - first)
        buckets = np.arange(first - self.low - 1, first - self.low - 1 + stretch)
        members = self._members(buckets)
        self.heads.frombytes(bytes(4 * stretch))
        view(self.heads)[buckets] = 0
        self._link(members, self._buckets(view(self.words)[members]))
        if len(self.heads) > self.high:
            self.low, self.high = self.high, 2 * self.high + 1

    def _members(self, buckets: NDArray[np.intp]) -> NDArray[np.intp]:
        """All entries of distinct buckets."""
        links = view(self.links)
        at = view(self.heads)[buckets]
        parts = []
        while len(at := at[at > 0]):
            parts.append(at)
            at = links[at]
        return np.concatenate(parts).astype(np.intp) if parts else np.empty(0, np.intp)

    def _link(self, entries: NDArray[np.intp], buckets: NDArray[np.intp]) -> None:
        """Hang entries before what their buckets have. Of those that share a bucket, one gets there in each round."""
        heads, links = view(self.heads), view(self.links)
        while len(entries):
            links[entries] = heads[buckets]
            heads[buckets] = entries
            late = heads[buckets] != entries
            entries, buckets = entries[late], buckets[late]


def view(column: array[int]) -> NDArray[np.unsignedinteger[Any]]:
    """The column as numpy sees it, for one expression: while a view lives the column cannot grow."""
    return np.frombuffer(column, _TYPES[column.typecode])


def repeats(words: Words) -> bool:
    """Whether any word is there twice."""
    ordered = np.sort(words)
    return bool(np.any(ordered[1:] == ordered[:-1]))


def once(words: Words) -> NDArray[np.bool_]:
    """Which words are there no second time."""
    if not repeats(words):
        return np.ones(len(words), np.bool_)
    _, index, times = np.unique(words, return_inverse=True, return_counts=True)
    alone: NDArray[np.bool_] = times[index] == 1
    return alone
