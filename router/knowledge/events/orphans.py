"""Blocks whose parent is not known: kept aside, bounded, until somebody tells what their parent is."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from kvroute.router.core.changes import Medium
from kvroute.router.knowledge.events.counts import StreamCounts
from kvroute.router.knowledge.events.rehash import Run, next_key

MOST_BLOCKS = 16_384
MOST_BYTES = 16 << 20
_OVERHEAD = 512
"""What a block costs beside its tokens [bytes]."""


def _none() -> array[int]:
    return array("I", bytes(4 * len(Medium)))


class Orphan(msgspec.Struct, gc=False):
    """One block of the engine without a known place. Nothing in it can refer to itself, and there are many."""

    parent: int
    """Engine hash of the block before."""
    data: bytes
    own_bytes: int
    mixed: bytes | None
    following: int | None = None
    """Engine hash of the block behind it in the same event: of the same prompt, that is."""
    copies: array[int] = msgspec.field(default_factory=_none)
    """How many the engine holds, by medium."""

    @property
    def cost(self) -> int:
        """Memory, about [bytes]."""
        return _OVERHEAD + len(self.data)


class Orphans:
    """The orphans of one replica, by engine hash. Beyond the bound the oldest is dropped."""

    def __init__(self, counts: StreamCounts, most_blocks: int = MOST_BLOCKS, most_bytes: int = MOST_BYTES) -> None:
        self._counts = counts
        self._most_blocks = most_blocks
        self._most_bytes = most_bytes
        self._bytes = 0
        self._blocks: OrderedDict[int, Orphan] = OrderedDict()  # a dict's first is slow to find once many are dropped
        self._children: dict[int, dict[int, None]] = {}
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, hash_: int) -> Orphan | None:
        """The orphan of this hash."""
        return self._blocks.get(hash_)

    def is_awaited(self, hash_: int) -> bool:
        """Whether orphans wait for this block."""
        return hash_ in self._children

    def is_gone(self, hash_: int) -> bool:
        """Whether a block that orphans wait for was removed meanwhile."""
        return hash_ in self._gone

    def children(self, hash_: int) -> Iterable[int]:
        """The orphans that wait for this block, the newest first."""
        return reversed(self._children.get(hash_, {}))

    def roots(self) -> Iterable[int]:
        """Blocks that are awaited and no orphans themselves, the newest first."""
        return (parent for parent in reversed(self._children) if parent not in self._blocks)

    def add(self, medium: int, hashes: list[int], run: Run) -> None:
        """Keep the blocks of a run whose parent is unknown."""
        parent = run.parent
        assert parent is not None
        for at, hash_ in enumerate(hashes):
            orphan = self._blocks.get(hash_)
            if orphan is None:
                start = at * run.block_bytes
                data = run.data[start : start + run.block_bytes]
                orphan = Orphan(parent, data, run.own_bytes, run.mixed[at] if run.mixed else None)
                self._keep(hash_, orphan)
            orphan.copies[medium] += 1
            orphan.following = hashes[at + 1] if at + 1 < len(hashes) else orphan.following
            parent = hash_
        self._counts.orphans += len(hashes)
        self._shrink()

    def remove(self, medium: int, hash_: int) -> bool:
        """One copy of a block is gone; False where it is no orphan's."""
        orphan = self._blocks.get(hash_)
        if orphan is None:
            if hash_ in self._children:
                self._gone.add(hash_)
            return False
        if orphan.copies[medium]:
            orphan.copies[medium] -= 1
        if not any(orphan.copies):
            self._drop(hash_)
            if hash_ in self._children:
                self._gone.add(hash_)
        return True

    def adopt(self, hash_: int, key: int) -> list[tuple[int, int, int]]:
        """Block `hash_` is known to have this key: (medium, hash, key) of all copies of the orphans behind it."""
        found: list[tuple[int, int, int]] = []
        known = [(hash_, key)]
        for parent, parent_key in known:
            for child in self._children.pop(parent, ()):
                orphan = self._blocks.pop(child)
                self._bytes -= orphan.cost
                child_key = next_key(parent_key, orphan.data, orphan.own_bytes, orphan.mixed)
                known.append((child, child_key))
                for medium, copies in enumerate(orphan.copies):
                    found += [(medium, child, child_key)] * copies
        self._gone.discard(hash_)
        self._counts.anchored += len(found)
        return found

    def clear(self) -> None:
        """Forget all."""
        self._blocks.clear()
        self._children.clear()
        self._gone.clear()
        self._bytes = 0

    def _keep(self, hash_: int, orphan: Orphan) -> None:
        self._blocks[hash_] = orphan
        siblings = self._children.pop(orphan.parent, {})
        siblings[hash_] = None
        self._children[orphan.parent] = siblings
        self._gone.discard(orphan.parent)
        self._gone.discard(hash_)
        self._bytes += orphan.cost

    def _shrink(self) -> None:
        while len(self._blocks) > self._most_blocks or self._bytes > self._most_bytes:
            self._drop(next(iter(self._blocks)))
            self._counts.orphans_dropped += 1

    def _drop(self, hash_: int) -> None:
        orphan = self._blocks.pop(hash_)
        self._bytes -= orphan.cost
        siblings = self._children[orphan.parent]
        del siblings[hash_]
        if not siblings:
            del self._children[orphan.parent]
            self._gone.discard(orphan.parent)
