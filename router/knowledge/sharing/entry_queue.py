"""What a writer has carried out and not in the log yet: batches of events, then entries with a place in it."""

from __future__ import annotations

from collections import deque

import msgspec

from kvroute.router.core.changes import Change
from kvroute.router.knowledge.sharing import packing
from kvroute.router.knowledge.sharing.observed_log import Progress, Tip, pack_entry
from kvroute.router.knowledge.sharing.store import EntryId

ENTRY_OVERHEAD = 128
"""What the server needs beside an entry's content [bytes]."""


class Unit(msgspec.Struct, frozen=True):
    """What one batch of events changed: in the log together with its progress, or not at all."""

    changes: tuple[Change, ...]
    progress: Progress
    bytes: int


class Sealed(msgspec.Struct, frozen=True):
    """An entry with its position, which stays what it is until it is accepted."""

    tip: Tip
    follows: Tip
    data: bytes
    bytes: int
    """Of its changes."""


class EntryQueue:
    """First in, first out."""

    __slots__ = ("_entry_bytes", "_sealed", "_units", "bytes", "last", "tail", "told")

    def __init__(self, entry_bytes: int, last: EntryId, tail: int, told: Progress) -> None:
        """`entry_bytes`: about the most that one entry gathers."""
        self._entry_bytes = entry_bytes
        self._units: deque[Unit] = deque()
        self._sealed: deque[Sealed] = deque()
        self.bytes = 0
        """Of the changes that wait."""
        self.last = last
        """The greatest id that was given to an entry."""
        self.tail = tail
        """Bytes of the log since its snapshot, with all that is sealed."""
        self.told = told
        """How far the engine's events are with all that waits."""

    def __bool__(self) -> bool:
        return bool(self._units or self._sealed)

    def add(self, changes: tuple[Change, ...], progress: Progress) -> int:
        """Put in what a batch of events changed; its bytes."""
        size = sum(map(packing.size, changes))
        self._units.append(Unit(changes, progress, size))
        self.bytes += size
        self.told = progress
        return size

    def clear(self) -> None:
        """Nothing waits any more."""
        self._units.clear()
        self._sealed.clear()
        self.bytes = 0

    def oldest(self, tip: Tip) -> Sealed:
        """The entry that is to be accepted next; `tip` is the last accepted one."""
        if not self._sealed:
            self._seal(tip)
        return self._sealed[0]

    def sealed(self, tip: Tip) -> Tip:
        """Give everything a place; the position of the last."""
        while self._units:
            self._seal(tip)
        return self._sealed[-1].tip if self._sealed else tip

    def accepted(self) -> Tip:
        """The oldest entry is in the log: the new tip."""
        sealed = self._sealed.popleft()
        self.bytes -= sealed.bytes
        return sealed.tip

    def _seal(self, tip: Tip) -> None:
        """Make an entry of the oldest units."""
        units = [self._units.popleft()]
        size = units[0].bytes
        while self._units and size + self._units[0].bytes <= self._entry_bytes:
            units.append(self._units.popleft())
            size += units[-1].bytes
        data = pack_entry([change for unit in units for change in unit.changes], units[-1].progress, self.tail)
        self.tail += len(data) + ENTRY_OVERHEAD
        follows = self._sealed[-1].tip if self._sealed else tip
        self.last = EntryId(self.last.epoch, self.last.n + 1)
        self._sealed.append(Sealed(Tip(follows.generation, self.last), follows, data, size))
