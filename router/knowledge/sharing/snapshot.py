"""A snapshot on its way into the store: parts under a name of their own, then the head that puts them in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvroute.router.core.observed import Contents
from kvroute.router.knowledge.sharing import packing
from kvroute.router.knowledge.sharing.observed_log import (
    KEEP_MS,
    PARTS_MS,
    VERSION,
    Head,
    LogNames,
    Progress,
    Tip,
)
from kvroute.router.knowledge.sharing.store import Drop, Expire, Put, Write

PATIENCE = PARTS_MS / 2000
"""An upload that takes longer is begun anew, before its first parts expire [s]."""


class Snapshot:
    """The state of one replica at a position, written part by part; each is packed when its turn comes."""

    def __init__(
        self,
        names: LogNames,
        at: Tip,
        progress: Progress,
        block_tokens: int,
        contents: Sequence[Contents],
        now: float,
    ) -> None:
        self.at = at
        self.until = now + PATIENCE
        """When it has to be in place [s]."""
        self.bytes = 0
        """Of the parts packed so far."""
        self._names = names
        self._progress = progress
        self._block_tokens = block_tokens
        self._pairs = packing.pairs(contents)
        self._count = packing.part_count(contents)
        self._parts: Iterator[bytes] = packing.parts(contents)
        self._written = 0
        self._due: bytes | None = None

    @property
    def complete(self) -> bool:
        """Whether all parts are written."""
        return self._written == self._count

    @property
    def part_names(self) -> list[str]:
        """The keys of all parts."""
        return [self._names.part(self.at.generation, self.at.at, place) for place in range(self._count)]

    def part(self) -> Put:
        """The part that is due; the same until `wrote`."""
        if self._due is None:
            self._due = next(self._parts)
            self.bytes += len(self._due)
        return Put(self._names.part(self.at.generation, self.at.at, self._written), self._due, ttl_ms=PARTS_MS)

    def wrote(self) -> None:
        """The part that was due is in the store."""
        self._due = None
        self._written += 1

    def head(self, replaces: Sequence[str]) -> list[Write]:
        """What puts it in place, and drops the parts of the one before."""
        names = self.part_names
        keep = set(names)
        head = Head(
            VERSION, self.at.generation, *self.at.at, self._count, self._pairs, self.bytes,
            self._progress.next, self._progress.stamp, self._progress.source, self._block_tokens,
        )  # fmt: skip
        return [
            Put(self._names.snapshot, head.encode(), ttl_ms=KEEP_MS),
            *(Expire(name, KEEP_MS) for name in names),
            *(Drop(name) for name in replaces if name not in keep),
        ]
