"""The log of what one replica's KV events said: the names of its keys, its positions, the form of its entries.

Theory of operation. The log is a chain of *accepted* entries; a replica's state at a position is the snapshot of its
generation plus the entries after it. Five rules make it safe, whatever dies, stalls or comes back when:

1. An entry is appended together with a new tip, given that the tip is the one before it *and* that the writer's lease
   token still holds. So entries follow each other without a hole, and nobody writes beside the lease's holder: not a
   writer that was paused, nor a command of its that the server had kept in a buffer. Ids `<epoch>-<n>` say the same
   once more in the Stream itself: the server refuses one that is not greater than the last.
2. A position is never used for other content than that of its first attempt. A writer that got no answer sends the
   same again: it is accepted once, or refused because it was, and the tip tells which.
3. Each entry names the position that it follows. A reader takes it in exactly there, and else loads the snapshot: what
   was trimmed, flushed, or put back to an old copy shows, whatever the ids are.
4. A generation (a random name, part of the tip) begins with a snapshot that is put in place in one step with its tip
   and an empty Stream. A writer that finds another tip than its own (flushed, evicted, an old copy of the data) begins
   a new generation from its own state. So where there is a tip, there is a snapshot that its Stream continues.
5. A snapshot holds the state at an id that was accepted before the snapshot is put in place, under a name of its own;
   entries are trimmed only after that.

What a writer had carried out but not had accepted, when it lost its lease, is not the log's: it reads the log anew. The
next writer takes the engine's events up again at the log's own `Progress`, so they come in either way, and once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from kvroute.router.core.changes import Change
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing import packing
from kvroute.router.knowledge.sharing.store import EntryId

VERSION = 1
KEEP_MS = 3_600_000
"""Keys of a log that nobody writes any more last so long: a replica that is gone leaves nothing behind [ms]."""
PARTS_MS = 60_000
"""Parts of a snapshot that is not in place yet [ms]."""
_MOST = 1 << 53
"""Numbers in ids are below this: thousands of years, in ms."""
_MOST_PARTS = 1 << 16
"""Of a snapshot: a thousand million pairs."""
CHANGES = b"c"
FOLLOWS = b"p"
"""Fields of an entry: what changed, and the position that it follows."""
_HEADER = struct.Struct("<BBxxxxxxQdQ")
"""Version, source, next sequence number, time of the last batch, bytes of the log since its snapshot."""
_SOURCES = (Source.EXPECTED, Source.RECOVERING, Source.EXACT)


class Unreadable(Exception):
    """Bytes in the store that no router of this version wrote."""


class LogNames:
    """The keys of one replica's log. They share a hash tag, so a cluster keeps them together."""

    __slots__ = ("doubt", "ingest", "observed", "snapshot", "tip")

    def __init__(self, namespace: str, replica: str) -> None:
        tag = f"{{{namespace}:{replica}}}"
        self.observed = f"{tag}:observed"
        """The Stream of entries."""
        self.tip = f"{tag}:tip"
        """The generation and the last accepted position."""
        self.snapshot = f"{tag}:snapshot"
        """The head of the snapshot in place; its parts are beside it."""
        self.ingest = f"{tag}:ingest"
        """Who writes: the token of the ingest lease."""

        self.doubt = f"{tag}:doubt"
        """Where a follower was when it found the cache to be empty."""

    def part(self, generation: str, covers: EntryId, at: int) -> str:
        """A snapshot's part."""
        return f"{self.snapshot}:{generation}:{covers}:{at}"


class Tip(NamedTuple):
    """A position in the log."""

    generation: str
    at: EntryId

    def encode(self) -> bytes:
        return f"{self.generation}:{self.at}".encode()

    @classmethod
    def decode(cls, data: bytes) -> Tip:
        """The reverse.

        Raises:
            Unreadable: it is no position.
        """
        try:
            generation, _, text = data.decode().partition(":")
            at = EntryId.parse(text)
        except ValueError as error:
            raise Unreadable("the tip of an observed log") from error
        if not 0 <= min(at) <= max(at) < _MOST:  # the server would refuse what is to follow it
            raise Unreadable("the tip of an observed log")
        return cls(generation, at)


class Progress(msgspec.Struct, frozen=True):
    """How far the engine's own events were followed; enough to go on from there."""

    next: int = 0
    """The sequence number that is due."""
    stamp: float = 0.0
    """Time of the last batch, as the engine told it [s]."""
    source: Source = Source.EXPECTED


class Head(msgspec.Struct, frozen=True):
    """What a snapshot says of itself."""

    version: int
    generation: str
    epoch: int
    n: int
    parts: int
    pairs: int
    size: int
    """Of all parts [bytes]."""
    next: int
    stamp: float
    source: Source
    block_tokens: int
    """The size of the blocks that its keys stand for [tokens]; 0: not known."""

    @property
    def covers(self) -> EntryId:
        """The last entry that is in it."""
        return EntryId(self.epoch, self.n)

    @property
    def progress(self) -> Progress:
        return Progress(self.next, self.stamp, self.source)

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """The reverse.

        Raises:
            Unreadable: it is no head of this version.
        """
        try:
            head = msgspec.msgpack.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unreadable("the head of a snapshot") from error
        if head.version != VERSION:
            raise Unreadable(f"a snapshot of version {head.version}")
        if not 0 <= head.parts <= _MOST_PARTS:
            raise Unreadable(f"a snapshot of {head.parts} parts")
        return head


class Told(NamedTuple):
    """What one entry says."""

    changes: tuple[Change, ...]
    progress: Progress
    """After them."""
    tail: int
    """Bytes of the log since its snapshot, this entry included."""


def pack_entry(changes: Sequence[Change], progress: Progress, tail: int) -> bytes:
    """An entry's `CHANGES`. `tail`: bytes of the log since its snapshot, without this entry."""
    packed = packing.pack(changes)
    tail += _HEADER.size + len(packed)
    source = _SOURCES.index(progress.source)
    return _HEADER.pack(VERSION, source, progress.next, progress.stamp, tail) + packed


def unpack_entry(data: bytes) -> Told:
    """The reverse.

    Raises:
        Unreadable: no router of this version wrote that.
    """
    try:
        version, source, next_, stamp, tail = _HEADER.unpack_from(data)
        if version != VERSION:
            raise Unreadable(f"an entry of version {version}")
        changes = packing.unpack(memoryview(data)[_HEADER.size :])
        return Told(changes, Progress(next_, stamp, _SOURCES[source]), tail)
    except (struct.error, ValueError, IndexError) as error:
        raise Unreadable("an entry of an observed log") from error
