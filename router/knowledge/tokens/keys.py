"""Block keys of token ids, taken up again where an earlier prompt was the same.

A text is marked page by page, each mark a hash of the page and of the mark before it. Under a page's mark stands the
last place up to there at which the text may be cut whatever follows (`Segments.sure`), with the keys before it: a
conversation's next turn is cut, encoded and hashed from there on. The place of a text's last cut is kept too, under the
mark of the part of a page before it. The result equals hashing the whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import xxhash

from kvroute.router.core import blocks
from kvroute.router.knowledge.tokens.segments import Piece, Segments

PAGE = 4096
"""Characters of a page. Shorter texts are not remembered: putting them together from known stretches is cheap."""
_LENGTHS = 8
"""Lengths of parts kept behind one page: as many conversations may part there and go on from their last cut."""

_mark = xxhash.xxh3_64_intdigest


class Chain(msgspec.Struct, gc=False):
    """Block keys from the root on. Turns of one conversation share one chain, each a longer part of it."""

    keys: list[int]
    places: int = 0


class Place(msgspec.Struct, frozen=True, gc=False):
    """The state of hashing behind a cut: the keys of `count` blocks, and the packed ids behind the last of them."""

    at: int
    """Characters of the text before it."""
    chain: Chain
    count: int
    tail: bytes


class Found(msgspec.Struct, gc=False):
    """What is known of a text: the marks of its full pages, and the deepest place in it."""

    marks: list[int]
    place: Place | None

    @property
    def at(self) -> int:
        """Where cutting goes on [characters]."""
        return self.place.at if self.place else 0


class _Cut(msgspec.Struct, gc=False):
    """Where a text may be cut: around a special token."""

    start: int
    end: int
    offset: int
    """Bytes of packed ids up to its end."""


class TokenKeys:
    """Recent places, the least recently used first to go; bounded by their number and by the keys they keep."""

    __slots__ = ("_block_bytes", "_lengths", "_most", "_most_blocks", "_page", "_places", "_segments", "blocks")

    def __init__(
        self,
        segments: Segments,
        block_tokens: int,
        *,
        most: int = 65_536,
        most_blocks: int = 1_000_000,
        page: int = PAGE,
    ) -> None:
        self._segments = segments
        self._block_bytes = block_tokens * blocks.TOKEN_BYTES
        self._most = most
        self._page = page
        self._most_blocks = most_blocks
        self._places: OrderedDict[int, Place] = OrderedDict()
        self._lengths: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        self.blocks = 0
        """Block keys kept."""

    def __len__(self) -> int:
        return len(self._places)

    def find(self, root: int, text: str) -> Found:
        """Mark the text's pages, and find the deepest place known in it."""
        mark = root
        size = self._page
        full = len(text) - len(text) % size
        marks = [mark := _marked(text[at : at + size], mark) for at in range(0, full, size)]
        places = self._places
        for page in range(len(marks), 0, -1):
            mark = marks[page - 1]
            for found in (*self._parts(text, page * size, mark), mark):
                place = places.get(found)
                if place is not None:
                    places.move_to_end(found)
                    return Found(marks, place)
        return Found(marks, None)

    def _parts(self, text: str, start: int, mark: int) -> Iterator[int]:
        """The marks of parts of the page at `start` that may be known, the longest first."""
        for length in sorted(self._lengths.get(mark, ()), reverse=True):
            if start + length <= len(text):
                yield _marked(text[start : start + length], mark)

    def keys(
        self, root: int, text: str, found: Found, pieces: Sequence[Piece], around: tuple[bytes, bytes]
    ) -> tuple[list[int], int]:
        """Keys of the full blocks, and the count of tokens, of a text whose part from `found.at` on is `pieces`.

        All pieces have their ids. `around`: packed ids before and behind the text's own.
        """
        place = found.place or Place(0, Chain([]), 0, around[0])
        data = b"".join((place.tail, *[piece.packed or b"" for piece in pieces], around[1]))
        before = place.chain.keys
        new = blocks.extend(before[place.count - 1] if place.count else root, data, self._block_bytes)
        if found.marks:
            self._learn(text, found.marks, place, pieces, new, data)
        tokens = (place.count * self._block_bytes + len(data)) // blocks.TOKEN_BYTES
        return before[: place.count] + new, tokens

    def _learn(
        self, text: str, marks: list[int], place: Place, pieces: Sequence[Piece], new: list[int], data: bytes
    ) -> None:
        """Remember the last sure cut of each page that was read, and of the text."""
        size = self._block_bytes
        fresh = [
            (mark, cut)
            for mark, cut in self._sure_cuts(text, marks, place.at, _cuts(pieces, len(place.tail)))
            if mark not in self._places
        ]
        if not fresh:
            return
        chain = self._chain(place, new[: fresh[-1][1].offset // size])
        for mark, cut in fresh:
            full = cut.offset // size
            self._places[mark] = Place(cut.end, chain, place.count + full, data[full * size : cut.offset])
            chain.places += 1
        if len(self._places) > self._most or self.blocks > self._most_blocks:
            self._trim()

    def _sure_cuts(self, text: str, marks: list[int], at: int, cuts: list[_Cut]) -> Iterator[tuple[int, _Cut]]:
        """(mark, cut) for each page that has a new one, then for the rest behind the last full page."""
        index = 0
        size = self._page
        for page in range(at // size, len(marks) + 1):
            end = min(len(text), (page + 1) * size)
            sure = self._segments.sure(text, end)
            last = None
            while index < len(cuts) and cuts[index].end <= end and cuts[index].start < sure:
                last = cuts[index]
                index += 1
            if last is None:
                continue
            if page < len(marks):
                yield marks[page], last
            elif last.end > page * size:
                yield self._part(text, page * size, last.end, marks[-1]), last

    def _part(self, text: str, start: int, end: int, mark: int) -> int:
        """The mark of a part of a page, whose length is remembered."""
        lengths = self._lengths
        length = end - start
        others = [kept for kept in lengths.get(mark, ()) if kept != length]
        lengths[mark] = (length, *others[: _LENGTHS - 1])
        lengths.move_to_end(mark)
        if len(lengths) > self._most:
            lengths.popitem(last=False)
        return _marked(text[start:end], mark)

    def _chain(self, place: Place, new: list[int]) -> Chain:
        """A chain that has the place's keys and then `new`: the place's own where nothing else follows there."""
        chain, count = place.chain, place.count
        following = chain.keys[count : count + len(new)]
        if following == new[: len(following)]:
            added = new[len(following) :]
            # One without places was counted out while this text was being encoded.
            self.blocks += len(added) if chain.places else len(chain.keys) + len(added)
            chain.keys += added
            return chain
        chain = Chain(chain.keys[:count] + new)
        self.blocks += len(chain.keys)
        return chain

    def _trim(self) -> None:
        """Forget the least recently used places."""
        places = self._places
        while places and (len(places) > self._most or self.blocks > self._most_blocks):
            chain = places.popitem(last=False)[1].chain
            chain.places -= 1
            if not chain.places:
                self.blocks -= len(chain.keys)


def _cuts(pieces: Iterable[Piece], offset: int) -> list[_Cut]:
    found = []
    for piece in pieces:
        offset += len(piece.packed or b"")
        if piece.key is None:
            found.append(_Cut(piece.start, piece.end, offset))
    return found


def _marked(text: str, mark: int) -> int:
    return _mark(text.encode("utf-8", "surrogatepass"), mark)
