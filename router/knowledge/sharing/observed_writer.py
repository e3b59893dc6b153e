"""Writes one replica's observed log: a state machine that says what to send next, and is told what came of it.

What has to hold, and why it does, is said in `observed_log.py`.
"""

from __future__ import annotations

import contextlib
import enum
import secrets
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from kvroute.router.core.changes import Change, Cleared
from kvroute.router.knowledge.sharing.entry_queue import EntryQueue
from kvroute.router.knowledge.sharing.observed_follower import ObservedFollower
from kvroute.router.knowledge.sharing.observed_log import CHANGES, FOLLOWS, KEEP_MS, Head, Progress, Tip, Unreadable
from kvroute.router.knowledge.sharing.snapshot import Snapshot
from kvroute.router.knowledge.sharing.store import Append, Batch, Drop, Ends, EntryId, Expire, Outcome, Put, Write

SKIPPED = 256
"""Batches of events without any effect, after which the log is told how far they are."""


class WriterSettings(msgspec.Struct, frozen=True):
    """How a log is written."""

    entry_bytes: int = 64 << 10
    """About the most that one entry gathers."""
    unit_bytes: int = 1 << 20
    """A single batch of events that makes more than this is told by a snapshot, which goes in parts."""
    backlog_bytes: int = 8 << 20
    """Likewise what waits while the store is away, if it is more than this and more than the table."""
    share: float = 0.5
    """A new snapshot is due when the log since the last has this share of its bytes: each byte is written thrice."""
    least_tail: int = 256 << 10
    """... and at least this many."""
    grace: float = 2.0
    """Entries that a snapshot replaced are kept for followers that are so far behind [s]."""


class _Flight(enum.Enum):
    """What was sent and not answered yet."""

    ENTRY = "entry"
    PART = "part"
    HEAD = "head"
    TOUCH = "touch"


class ObservedWriter:
    """One replica's writer, from when the ingest lease was won until it is `lost` or given up (`end`).

    Whatever changes the follower's row is reported with `record` in the same step. `batch` and `settle` (or `failed`)
    alternate; while `unsure`, `resolve` is due instead.
    """

    def __init__(
        self,
        follower: ObservedFollower,
        token: bytes,
        settings: WriterSettings,
        name: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """`token` is the ingest lease's value while we hold it; `name` makes the names of generations."""
        self.lost = False
        """The lease is another's: nothing is sent any more."""
        self.unsure = True
        """What the store holds has to be read (`resolve`) before anything is sent."""
        self.generations = 0
        """Begun by this writer."""
        self.cleared = EntryId()
        """The last entry, when the row was last cleared: whoever is not beyond it has not heard of that."""
        self.snapshots = 0
        """Put in place by this writer."""
        self.names = follower.names
        self._follower = follower
        self._token = token
        self._settings = settings
        self._name = name
        self._tip = follower.position or Tip("", EntryId())
        """The log's last accepted position."""
        self._fresh = follower.position is None or not follower.synced
        """A generation has to begin before anything else."""
        self._begun = False
        self._found: bytes | None = None
        """The tip that a new generation takes the place of."""
        self._queue = EntryQueue(settings.entry_bytes, self._tip.at, follower.tail, follower.progress)
        self._snapshot: Snapshot | None = None
        self._covered = 0
        """Bytes of the log that the snapshot on its way takes the place of."""
        self._parts: list[str] = []
        """Of the snapshot in place."""
        self._table_bytes = 0
        """Of the snapshot in place."""
        self._trims: deque[tuple[float, EntryId]] = deque()
        """When entries may go [s], and the first that stays."""
        self._trimming = 0
        self._touch_at = 0.0
        self._flight: _Flight | None = None
        self._part_next = False
        self._over = False
        follower.writing = True

    @property
    def progress(self) -> Progress:
        """How far the row is; the engine's events go on from there."""
        return self._follower.progress

    @property
    def idle(self) -> bool:
        """Whether the log holds all that the row does."""
        return not (self._queue or self._fresh or self.unsure or self._flight)

    def record(self, changes: tuple[Change, ...], progress: Progress) -> None:
        """These changes were carried out in the row just now, which leaves the engine's events at `progress`."""
        self._follower.progress = progress
        if any(isinstance(change, Cleared) for change in changes):
            self.cleared = self._queue.last
        if self._fresh and self._snapshot is None:
            return  # the snapshot that is to come tells it all
        told = self._queue.told
        if not changes and progress.source is told.source and 0 <= progress.next - told.next < SKIPPED:
            return
        size = self._queue.add(changes, progress)
        settings = self._settings
        if size > settings.unit_bytes or self._queue.bytes > max(settings.backlog_bytes, self._table_bytes):
            self._begin_anew()

    def _begin_anew(self) -> None:
        """A new generation is due. Nothing that waits is needed for it."""
        self._fresh = True
        self.unsure = True
        self._snapshot = None
        self._queue.clear()

    # -- what is sent -------------------------------------------------------------------------------------------

    def batch(self, now: float) -> Batch | None:
        """What to send, if anything; then `settle` or `failed` is due. `now` [s], monotonic."""
        if self.lost or self.unsure or self._flight:
            return None
        snapshot = self._capture(now)
        if snapshot is None or (self._queue and not self._fresh and not self._part_next):
            return self._entry(now) if self._queue else self._touch(now)
        self._part_next = False
        if not snapshot.complete:
            return self._send(_Flight.PART, [snapshot.part()], {})
        if self._fresh:
            return self._generation(snapshot)
        if self._tip.at >= snapshot.at.at:
            return self._send(_Flight.HEAD, snapshot.head(self._parts), {self.names.tip: self._tip.encode()})
        return self._entry(now)

    def _send(self, flight: _Flight, writes: Sequence[Write], given: dict[str, bytes | None]) -> Batch:
        self._flight = flight
        return Batch(writes, given={self.names.ingest: self._token, **given})

    def _capture(self, now: float) -> Snapshot | None:
        """The snapshot on its way; a new one of the row, where one is due. All that waits has its place before it."""
        if self._snapshot is not None and now <= self._snapshot.until:
            return self._snapshot
        settings, queue = self._settings, self._queue
        if self._fresh:
            queue.clear()
            queue.tail = 0
            at = Tip(self._name(), EntryId(queue.last.epoch, 0))
        elif self._snapshot is not None or queue.tail > max(settings.least_tail, settings.share * self._table_bytes):
            at = queue.sealed(self._tip)
        else:
            return None
        follower = self._follower
        contents = follower.observed.contents(follower.row)
        self._covered = queue.tail
        queue.told = follower.progress
        self._snapshot = Snapshot(self.names, at, follower.progress, follower.block_tokens or 0, contents, now)
        return self._snapshot

    def _entry(self, now: float) -> Batch:
        """Append the oldest entry that waits."""
        self._part_next = self._snapshot is not None
        entry = self._queue.oldest(self._tip)
        self._trimming = sum(due <= now for due, _ in self._trims)
        since = self._trims[self._trimming - 1][1] if self._trimming else None
        follows = entry.follows.encode()
        fields = {CHANGES: entry.data, FOLLOWS: follows}
        writes: list[Write] = [
            Append(self.names.observed, fields, id=entry.tip.at, since=since),
            Put(self.names.tip, entry.tip.encode(), ttl_ms=KEEP_MS),
            Expire(self.names.observed, KEEP_MS),
        ]
        return self._send(_Flight.ENTRY, writes, {self.names.tip: follows})

    def _generation(self, snapshot: Snapshot) -> Batch:
        """Begin a generation: the snapshot, its tip and an empty Stream, in one step."""
        writes: list[Write] = [
            Drop(self.names.observed),
            Put(self.names.tip, snapshot.at.encode(), ttl_ms=KEEP_MS),
            *snapshot.head(self._parts),
        ]
        return self._send(_Flight.HEAD, writes, {self.names.tip: self._found})

    def _touch(self, now: float) -> Batch | None:
        """Keep the keys of a log alive in which little happens."""
        if now < self._touch_at:
            return None
        self._touch_at = now + KEEP_MS / 4000
        return self._send(_Flight.TOUCH, [Expire(key, KEEP_MS) for key in self.keys], {})

    @property
    def keys(self) -> list[str]:
        """All keys of the log."""
        return [self.names.observed, self.names.tip, self.names.snapshot, *self._parts]

    # -- what came of it ----------------------------------------------------------------------------------------

    def settle(self, outcome: Outcome, now: float) -> None:
        """What became of the last batch."""
        if self._over:
            return
        if outcome is Outcome.STALE:
            self._begin_anew()
        if outcome is not Outcome.DONE or self.unsure:
            self.unsure = True
            return
        flight, self._flight = self._flight, None
        if flight is _Flight.ENTRY:
            self._accepted()
        elif flight is _Flight.PART and self._snapshot is not None:
            self._snapshot.wrote()
        elif flight is _Flight.HEAD and self._snapshot is not None:
            self._placed(self._snapshot, now)

    def failed(self) -> None:
        """There was no answer: whether the last batch was carried out is unknown."""
        self.unsure = True

    def _accepted(self) -> None:
        """The oldest entry is in the log."""
        self._at(self._queue.accepted())
        for _ in range(self._trimming):
            self._trims.popleft()
        self._trimming = 0

    def _placed(self, snapshot: Snapshot, now: float) -> None:
        """The snapshot is in place."""
        self._parts = snapshot.part_names
        self._table_bytes = snapshot.bytes
        self._queue.tail -= self._covered
        self._snapshot = None
        self.snapshots += 1
        if not self._fresh:
            self._trims.append((now + self._settings.grace, EntryId(snapshot.at.at.epoch, snapshot.at.at.n + 1)))
            return
        self._fresh = False
        self._trims.clear()
        self._at(snapshot.at)
        self.generations += 1

    def _at(self, tip: Tip) -> None:
        self._tip = self._follower.position = tip

    def resolve(self, held: Sequence[bytes | None], now_ms: int, now: float) -> None:
        """What the store holds, read after the last answer or the lack of it: the ingest lease's token, the log's tip
        and the snapshot's head; and the server's clock [ms]."""
        token, tip, head = held
        if self._over:
            return
        if token != self._token:
            self.lost = True
            return
        flight, self._flight = self._flight, None
        if not self._begun:
            self._begun = True
            self._begin(tip, head, now_ms)
        elif self._fresh:
            if flight is _Flight.HEAD and self._snapshot is not None and tip == self._snapshot.at.encode():
                self._placed(self._snapshot, now)
        elif flight is _Flight.ENTRY and tip == self._queue.oldest(self._tip).tip.encode():
            self._accepted()
        elif tip != self._tip.encode() or head is None:
            self._begin_anew()
        if self._fresh:
            self._prepare(tip, head, now_ms)
        self.unsure = False

    def _begin(self, tip: bytes | None, head: bytes | None, now_ms: int) -> None:
        """We won the lease: go on from the log's tip, if that is where the row is."""
        self._queue.last = EntryId(max(now_ms, self._tip.at.epoch + 1), 0)
        if tip != self._tip.encode() or not self._know_old(head):
            self._begin_anew()

    def _prepare(self, tip: bytes | None, head: bytes | None, now_ms: int) -> None:
        """A generation takes the place of what the store holds now."""
        if self._snapshot is not None and tip == self._found:
            return
        self._snapshot = None
        self._found = tip
        epoch = max(now_ms, self._queue.last.epoch + 1)
        if tip is not None:
            with contextlib.suppress(Unreadable):
                epoch = max(epoch, Tip.decode(tip).at.epoch + 1)
        self._queue.last = EntryId(epoch, 0)
        self._know_old(head)

    def _know_old(self, head: bytes | None) -> bool:
        """Note the snapshot that is in place. False: there is none that can be read."""
        self._parts = []
        try:
            old = None if head is None else Head.decode(head)
        except Unreadable:
            old = None
        if old is None:
            return False
        self._parts = [self.names.part(old.generation, old.covers, at) for at in range(old.parts)]
        self._table_bytes = old.size
        return True

    # -- from time to time, and at the end ----------------------------------------------------------------------

    def inspect(self, tip: bytes | None, head: bytes | None, ends: Ends) -> None:
        """Compare with what the store holds while nothing is on its way: keys may be evicted, or flushed."""
        if self._over or self.unsure or self._fresh or self._flight:
            return
        missing = self._tip.at.n > 0 and ends.last != self._tip.at
        if tip != self._tip.encode() or head is None or missing:
            self._begin_anew()

    def end(self) -> None:
        """Write no more. The follower goes on from the log's tip, or loads the log where the row is ahead of it."""
        self._over = True
        follower = self._follower
        follower.writing = False
        if self.idle and not self.lost:
            follower.tail = self._queue.tail
            follower.synced = True
        else:
            follower.lose()
