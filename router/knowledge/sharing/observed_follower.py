"""Follows one replica's observed log: its snapshot, then entry by entry; what does not fit leads back to the first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from kvroute.router.core import changes as changing
from kvroute.router.core.changes import Change, Cleared
from kvroute.router.core.observed import Observed, Staged
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing import packing
from kvroute.router.knowledge.sharing.observed_log import (
    CHANGES,
    FOLLOWS,
    Head,
    LogNames,
    Progress,
    Tip,
    Unreadable,
    unpack_entry,
)
from kvroute.router.knowledge.sharing.store import Entry, EntryId, Store
from kvroute.router.knowledge.sharing.turns import Turn

log = logging.getLogger(__name__)
_PARTS_AT_ONCE = 4
"""1 MiB in one answer."""
_PIECE_PAIRS = 4_000
"""Put into the row's next content at once: some 2 ms."""
_TRIES = 3
"""Snapshots that were replaced while they were being read, before it is left for later."""
_PAGE = 64
"""Entries of the tail in one answer: at most 4 MiB."""


class ObservedFollower:
    """One replica's row of `Observed`, as its log tells it. Whatever is in the row is the state at `position`; while
    not `synced` it may be an old one, which is still the best there is."""

    def __init__(self, names: LogNames, observed: Observed, row: int, block_tokens: int | None) -> None:
        """`block_tokens` is the size of the blocks that our keys stand for [tokens]; None: whatever the log says."""
        self.names = names
        self.observed = observed
        self.row = row
        self.block_tokens = block_tokens
        self.position: Tip | None = None
        """What the row's content is the state at; None: of no log's."""
        self.progress = Progress()
        self.synced = False
        """Whether, as far as we have read, nothing was missed."""
        self.writing = False
        """Whether the row is another's to change: this router follows the events itself, or the replica has left."""
        self.doubted = False
        """Requests find nothing of what the row holds: told to the writer, who has not answered yet."""
        self.tail = 0
        """Bytes of the log since its snapshot."""
        self.changed: Callable[[tuple[Change, ...]], None] | None = None
        """Hears of every entry's changes after they were carried out."""
        self._loading = asyncio.Lock()
        self.loads = 0
        """Snapshots taken in."""
        self.gaps = 0
        """Times that the log went on elsewhere than where we were."""
        self.unreadable = 0
        """Times that the log held what no router of this version wrote."""

    @property
    def key(self) -> str:
        """The Stream to read."""
        return self.names.observed

    @property
    def after(self) -> EntryId:
        """The last entry taken in."""
        return self.position.at if self.position else EntryId()

    @property
    def source(self) -> Source:
        """How far the row's content may be believed."""
        source = self.progress.source
        return Source.RECOVERING if source is Source.EXACT and (self.doubted or not self.synced) else source

    def take(self, entries: Sequence[Entry]) -> bool:
        """Carry out the entries that follow. False: they do not, or we were not in step; `load` is due."""
        if self.writing:
            return True
        for entry in entries:
            if not self.synced:
                return False
            if entry.id > self.after:
                self._take(entry)
        return self.synced

    def _take(self, entry: Entry) -> None:
        position = self.position
        if position is None or entry.fields.get(FOLLOWS) != position.encode():
            self.gaps += 1
            self.synced = False
            return
        try:
            told = unpack_entry(entry.fields.get(CHANGES, b""))
        except Unreadable as error:
            self._cannot_read(error)
            return
        changing.apply(self.observed, self.row, told.changes)
        self.doubted = self.doubted and not any(isinstance(change, Cleared) for change in told.changes)
        if self.changed is not None:
            self.changed(told.changes)
        self.position = Tip(position.generation, entry.id)
        self.progress = told.progress
        self.tail = told.tail

    def _cannot_read(self, error: Unreadable) -> None:
        if not self.unreadable:
            log.warning("what other routers know of %s cannot be read: %s", self.names.observed, error)
        self.unreadable += 1
        self.synced = False

    def check(self, tip: bytes | None) -> None:
        """Compare with the tip in the store: a log that was flushed, replaced or put back is noticed here."""
        position = self.position
        if not self.synced or self.writing or position is None:
            return
        known = None if tip is None else self._known(tip)
        if known is None or known.generation != position.generation or known.at < position.at:
            self.synced = False

    async def load(self, store: Store) -> bool:
        """Get in step: the snapshot where entries are missing, then what follows it. False: there is no log to read.

        Raises:
            StoreDown: as it says; the row holds what it did, or a later state.
        """
        async with self._loading:
            return self.writing or await self._load(store)

    async def _load(self, store: Store) -> bool:
        self.synced = False
        for attempt in range(_TRIES):
            (data,) = await store.get([self.names.tip])
            tip = None if data is None else self._known(data)
            if tip is None:
                return False
            if (attempt or not self._within(tip)) and not await self._snapshot(store):
                continue
            self.synced = True
            if await self._tail(store, tip):
                return True
            self.synced = False
        return False

    def restart(self) -> None:
        """The engine that the row tells of is no more: another begins, with nothing."""
        self.observed.clear(self.row)
        self.progress = Progress()
        self.doubted = False

    def lose(self) -> None:
        """The row holds what is in no log; it stays until the log's state takes its place."""
        self.position = None
        self.synced = False

    def _known(self, tip: bytes) -> Tip | None:
        """The tip in the store; None: it is none that we can read."""
        try:
            return Tip.decode(tip)
        except Unreadable as error:
            self._cannot_read(error)
            return None

    def _within(self, tip: Tip) -> bool:
        """Whether our position may be one of this log's that its Stream still continues."""
        position = self.position
        return position is not None and position.generation == tip.generation and position.at <= tip.at

    async def _snapshot(self, store: Store) -> bool:
        """Put the snapshot's content into the row, in one step. False: it is not there, or not for us."""
        (data,) = await store.get([self.names.snapshot])
        if data is None:
            return False
        try:
            head = Head.decode(data)
            if head.block_tokens and head.block_tokens != (self.block_tokens or head.block_tokens):
                raise Unreadable(f"blocks of {head.block_tokens} tokens, ours have {self.block_tokens}")
            staged = await self._staged(store, head)
        except (Unreadable, ValueError) as error:
            self._cannot_read(error if isinstance(error, Unreadable) else Unreadable(str(error)))
            return False
        if staged is None:
            return False
        if self.writing:  # since we began to read
            self.observed.drop(staged)
            return False
        self.observed.show(self.row, staged)
        self.block_tokens = self.block_tokens or head.block_tokens or None
        if self.position is None or self.position.generation != head.generation:
            self.doubted = False
        self.position = Tip(head.generation, head.covers)
        self.progress = head.progress
        self.tail = 0
        self.loads += 1
        return True

    async def _staged(self, store: Store, head: Head) -> Staged | None:
        """All parts, taken in little by little; None: another snapshot took its place meanwhile."""
        names = [self.names.part(head.generation, head.covers, at) for at in range(head.parts)]
        staged, turn, pairs = self.observed.stage(), Turn(), 0
        whole = False
        try:
            for at in range(0, len(names), _PARTS_AT_ONCE):
                for part in await store.get(names[at : at + _PARTS_AT_ONCE]):
                    if part is None:
                        return None
                    for piece in packing.pieces(part, _PIECE_PAIRS):
                        self.observed.put(staged, piece)
                        pairs += len(piece[1])
                        await turn.give()
            if pairs != head.pairs:
                raise Unreadable("a snapshot with another number of pairs than it says")
            whole = True
        finally:
            if not whole:
                self.observed.drop(staged)
        return staged

    async def _tail(self, store: Store, wanted: Tip) -> bool:
        """Take in what the Stream holds after our position, at least up to `wanted`."""
        turn = Turn()
        while self.synced and self.position is not None and not self.writing:
            if self.position.generation == wanted.generation and self.position.at >= wanted.at:
                return True
            found = await store.read({self.key: self.after}, block_ms=0, count=_PAGE)
            if not found:
                return False
            for entry in found[self.key]:
                self.take([entry])
                await turn.give()
        return False
