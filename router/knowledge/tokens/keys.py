"""Block keys of token ids, taken up again where an earlier prompt was the same.

A text is marked page by page, each mark a hash of the page and of the mark before it. Under a page's mark stands the
last place up to there at which the text may be cut whatever follows (`Segments.sure`), with the keys before it: a
conversation's next turn is cut, encoded and hashed from there on. The place of a text's last cut is kept too, under the
mark of the part of a page before it. The result equals hashing the whole.
"""

from __future__ import annotations

import contextlib
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


class _Marked(msgspec.Struct, frozen=True, gc=False):
    """A cut that may be remembered under a mark."""

    mark: int
    end: int
    offset: int
    page: int = 0
    """Of a part of a page: the mark of the page before it."""
    length: int = 0
    """Of a part of a page [characters]; 0: the page is full."""


class Lesson(msgspec.Struct, frozen=True, gc=False):
    """What is to be remembered of a text."""

    place: Place
    """Where hashing was taken up."""
    new: list[int]
    """The keys behind it."""
    data: bytes
    """What they are the keys of."""
    cuts: list[_Marked]


class TokenKeys:
    """Recent places, the least recently used first to go; bounded by their number and by the keys they keep.

    Any thread may `find` and have a text `hashed`; one only may `learn`: chains do but grow at their ends."""

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
                    with contextlib.suppress(KeyError):  # forgotten in this moment, by another thread
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
        keys, tokens, lesson = self.hashed(root, text, found, pieces, around)
        self.learn(lesson)
        return keys, tokens

    def hashed(
        self, root: int, text: str, found: Found, pieces: Sequence[Piece], around: tuple[bytes, bytes]
    ) -> tuple[list[int], int, Lesson | None]:
        """As `keys`, and what is to be learned of it."""
        place = found.place or Place(0, Chain([]), 0, around[0])
        data = b"".join((place.tail, *[piece.packed or b"" for piece in pieces], around[1]))
        before = place.chain.keys
        new = blocks.extend(before[place.count - 1] if place.count else root, data, self._block_bytes)
        tokens = (place.count * self._block_bytes + len(data)) // blocks.TOKEN_BYTES
        lesson = None
        if found.marks:
            cuts = list(self._sure_cuts(text, found.marks, place.at, _cuts(pieces, len(place.tail))))
            lesson = Lesson(place, new, data, cuts) if cuts else None
        return before[: place.count] + new, tokens, lesson

    def learn(self, lesson: Lesson | None) -> None:
        """Remember the last sure cut of each page that was read, and of the text."""
        if lesson is None:
            return
        size = self._block_bytes
        place, data = lesson.place, lesson.data
        part = lesson.cuts[-1]
        if part.length:
            self._note_length(part.page, part.length)
        fresh = [cut for cut in lesson.cuts if cut.mark not in self._places]
        if not fresh:
            return
        chain = self._chain(place, lesson.new[: fresh[-1].offset // size])
        for cut in fresh:
            full = cut.offset // size
            self._places[cut.mark] = Place(cut.end, chain, place.count + full, data[full * size : cut.offset])
            chain.places += 1
        if len(self._places) > self._most or self.blocks > self._most_blocks:
            self._trim()

    def _sure_cuts(self, text: str, marks: list[int], at: int, cuts: list[_Cut]) -> Iterator[_Marked]:
        """The last cut of each page that has a new one, then of the rest behind the last full page."""
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
                yield _Marked(marks[page], last.end, last.offset)
            elif last.end > page * size:
                mark = _marked(text[page * size : last.end], marks[-1])
                yield _Marked(mark, last.end, last.offset, marks[-1], last.end - page * size)

    def _note_length(self, page: int, length: int) -> None:
        """Remember how long a part of a page is, by the mark of the page before it."""
        lengths = self._lengths
        others = [kept for kept in lengths.get(page, ()) if kept != length]
        lengths[page] = (length, *others[: _LENGTHS - 1])
        lengths.move_to_end(page)
        if len(lengths) > self._most:
            lengths.popitem(last=False)

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
