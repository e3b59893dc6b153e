"""Where hashing may be taken up again: the chains of recent prompts at the boundaries of their messages.

A conversation's next turn repeats all messages of the last one. Each message is hashed once, in one call, into a
chain of boundary marks; the deepest mark that is known tells the block keys up to there, and only the bytes behind it
are cut into blocks. The result equals hashing the whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import xxhash

from kvroute.router.core import blocks

PAGE_BYTES = 16384
"""Longer messages are cut into pages of this size, so that long prompts that part late share their beginning."""
SMALL_BYTES = 4096
"""Prompts below this size are hashed outright: remembering them costs more than it saves."""

Pieces: TypeAlias = Sequence[bytes | memoryview]

_mark = xxhash.xxh3_64_intdigest


class Chain(msgspec.Struct, gc=False):
    """Block keys from the root on. Turns of one conversation share one chain, each a longer part of it."""

    keys: list[int]
    boundaries: int = 0


class Boundary(msgspec.Struct, frozen=True, gc=False):
    """The state of hashing behind some message: the keys of `count` blocks, and the bytes behind the last of them."""

    chain: Chain
    count: int
    tail: bytes


class Boundaries:
    """Recent boundaries, the least recently used first to go; bounded by their number and by the blocks they keep."""

    __slots__ = ("_block_bytes", "_known", "_most", "_most_blocks", "blocks")

    def __init__(self, block_bytes: int, most: int = 16_384, most_blocks: int = 250_000) -> None:
        self._block_bytes = block_bytes
        self._most = most
        self._most_blocks = most_blocks
        self._known: OrderedDict[int, Boundary] = OrderedDict()
        self.blocks = 0
        """Block keys kept."""

    def __len__(self) -> int:
        return len(self._known)

    def keys(self, root: int, pieces: Pieces, size: int) -> list[int]:
        """The keys of all full blocks of the joined `pieces`, which are `size` bytes together."""
        if size < SMALL_BYTES:
            return blocks.extend(root, b"".join(pieces), self._block_bytes)
        if max(map(len, pieces)) > PAGE_BYTES:
            pieces = _paged(pieces)
        mark = root
        marks = [mark := _mark(piece, mark) for piece in pieces]
        known = self._known
        at = len(marks)
        while at and marks[at - 1] not in known:
            at -= 1
        if not at:
            return self._learn(root, Chain([]), 0, b"", pieces, marks)
        known.move_to_end(marks[at - 1])
        boundary = known[marks[at - 1]]
        if at == len(marks):
            return boundary.chain.keys[: boundary.count]
        return self._learn(root, boundary.chain, boundary.count, boundary.tail, pieces[at:], marks[at:])

    def _learn(self, root: int, chain: Chain, count: int, tail: bytes, pieces: Pieces, marks: list[int]) -> list[int]:
        """Hash on from a boundary, and remember those that follow where a block or more lies between."""
        size = self._block_bytes
        data = b"".join((tail, *pieces))
        keys = chain.keys
        new = blocks.extend(keys[count - 1] if count else root, data, size)
        if count == len(keys):
            keys += new
            self.blocks += len(new)
        else:
            chain = Chain(keys[:count] + new)
            self.blocks += len(chain.keys)
        known = self._known
        end = len(tail)
        reached = count
        last = marks[-1]
        for piece, mark in zip(pieces, marks, strict=True):
            end += len(piece)
            full = end // size
            if count + full > reached or mark == last:
                reached = count + full
                known[mark] = Boundary(chain, reached, data[full * size : end])
                chain.boundaries += 1
        if len(known) > self._most or self.blocks > self._most_blocks:
            self._trim()
        return chain.keys[:reached]

    def _trim(self) -> None:
        """Forget the least recently used boundaries."""
        known = self._known
        while known and (len(known) > self._most or self.blocks > self._most_blocks):
            chain = known.popitem(last=False)[1].chain
            chain.boundaries -= 1
            if not chain.boundaries:
                self.blocks -= len(chain.keys)


def _paged(pieces: Pieces) -> Pieces:
    """The same bytes in pieces of at most a page."""
    pages: list[bytes | memoryview] = []
    for piece in pieces:
        if len(piece) <= PAGE_BYTES:
            pages.append(piece)
        else:
            view = memoryview(piece)
            pages += [view[at : at + PAGE_BYTES] for at in range(0, len(view), PAGE_BYTES)]
    return pages
