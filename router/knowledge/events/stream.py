"""One replica's KV event stream: order, gaps and replays, restarts; what is known of the replica follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from kvroute.router.core.changes import Change, Medium, Stored, Words
from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.events.batch import BadBatch, Batch, decode, stamp
from kvroute.router.knowledge.events.counts import StreamCounts
from kvroute.router.knowledge.events.held import Held
from kvroute.router.knowledge.events.ingest import Ingest, Mismatch
from kvroute.router.knowledge.events.recent import Recent

TURN_BYTES = 256 << 10
"""Of waiting batches that are applied in one call, some 5 ms; what is left waits for the next, or for `step`."""
_BATCH_BYTES = 1024
"""What a batch costs beside its bytes [bytes]."""
ANCHOR_HASHES = 2048
"""Work that one call spends on orphans, a quarter of a millisecond."""
RESTART_SECONDS = 30.0
"""One restart is noticed in several ways within this time (numbers that go backwards, another batch under a known
number, another start time), and no engine starts twice in it."""


class Stream:
    """Feeds one replica's (one rank's) batches to `Observed` in order.

    The caller hands over what it receives (`live`) and, while `behind`, asks for a replay from `wants` and hands over
    the answer (`replayed`, in parts of some dozen batches), or says that there is none (`unreplayable`). Nothing here
    waits. `source` says how far the knowledge goes; a stream begins EXPECTED, and behind, for the engine may have
    published before anybody listened.
    """

    def __init__(
        self,
        row: int,
        observed: Observed,
        block_tokens: int | None = None,
        *,
        on_changes: Callable[[int, tuple[Change, ...]], None] | None = None,
        on_stored: Callable[[Words], None] | None = None,
        on_source: Callable[[Source], None] | None = None,
    ) -> None:
        """`block_tokens` is the size of our blocks; None: the engine's, told by its first event [tokens].

        `on_changes` hears (sequence, changes) after they were carried out, `on_stored` the keys that entered the GPU's
        cache just now: neither those of a replay nor those whose place was found later. `on_source` hears every change
        of `source`.
        """
        self.source = Source.EXPECTED
        self.next = 0
        """The sequence number that is due."""
        self.counts = StreamCounts()
        self.believes_empty = True
        """An empty replay from the first batch on means that none was published. False: the engine may have no buffer,
        which looks the same, so nothing follows until it has replayed something or batch 0 comes."""
        self.on_changes = on_changes
        self.on_stored = on_stored
        self.on_source = on_source
        self._ingest = Ingest(row, observed, block_tokens, self.counts)
        self._held = Held()
        self._asking = True
        self._adrift = False
        self._begun = False
        self._complete = False
        self._last_ts = -math.inf
        self._recent = Recent()
        self._on_time = 0
        """Batches with lower numbers came late: from a replay, or behind a gap."""
        self._work: Iterator[None] | None = None
        self._noticed = -math.inf
        self._stale_ts = -math.inf
        self._stale_until = -math.inf

    # -- what the caller reads ----------------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether a replay is wanted."""
        return self._asking or (len(self._held) > 0 and self.next not in self._held)

    @property
    def wants(self) -> int | None:
        """The sequence number to replay from; None when no replay is wanted."""
        return self.next if self.behind else None

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return self._work is not None or self.next in self._held or bool(self._ingest.anchors)

    @property
    def block_tokens(self) -> int | None:
        """Size of our blocks; None until it is known [tokens]."""
        return self._ingest.block_tokens

    @property
    def mismatch(self) -> Mismatch | None:
        """Set while the engine's blocks cannot be told in ours: its events are of no use."""
        return self._ingest.mismatch

    # -- what the caller tells ----------------------------------------------------------------------------------

    def live(self, sequence: int, payload: bytes, now: float) -> None:
        """A batch was published."""
        if sequence == self.next and not len(self._held) and self._work is None and self._stale_until < now:
            self._apply(sequence, payload)
            self._asking = False
        else:
            self._receive(sequence, payload, now)
        self._turn()

    def replayed(self, batches: Sequence[tuple[int, bytes]], complete: bool, now: float) -> None:
        """(Part of) the answer to a replay; `complete`: its end was seen.

        A call may take as long as its batches do, some 50 us each: hand over some dozen at a time.
        """
        for sequence, payload in batches:
            if self._is_stale(payload, now):
                continue
            self.believes_empty = True
            self._on_time = max(self._on_time, sequence + 1)
            if sequence < self.next:
                if self._is_other(sequence, payload):
                    self._begin_anew(now)
                    break
                continue
            if self._work is not None or (sequence > self.next and self.next in self._held):
                self._hold(sequence, payload)  # its turn comes
                continue
            if sequence > self.next:
                self._lose(sequence)
            self._apply(sequence, payload)
        else:
            if complete:
                self._replay_ended()
        self._turn()

    def unreplayable(self, now: float) -> None:
        """There is no replay, or it does not answer: what is missing is lost."""
        self._asking = False
        if len(self._held):
            if self.next not in self._held:
                self._lose(self._held.first)
        elif not self._begun:
            self._adrift = True
        self._turn()

    def restarted(self, now: float) -> None:
        """The engine has another start time: it holds nothing, and counts from 0 again."""
        if now - self._noticed < RESTART_SECONDS:
            self._noticed = -math.inf  # the next one is another
            return
        self._stale_ts, self._stale_until = self._last_ts, now + RESTART_SECONDS
        self._held.clear()
        self._begin_anew(now)
        self._turn()

    def reset(self, now: float) -> None:
        """The canary saw that the engine's cache is empty, which the engine itself says only with its next step."""
        self._complete = False
        self._work = None
        self._tell(self.next - 1, self._ingest.clear())
        self._turn()

    def sent(self, keys: Sequence[int]) -> None:
        """A prompt with these block keys goes to the replica: orphans may turn out to continue it. Kept, not copied."""
        self._ingest.anchors.sent(keys)

    def step(self, now: float) -> None:
        """Go on with what was left: to be called once per turn of the loop while `busy`."""
        self._turn()

    # -- taking the stream over ---------------------------------------------------------------------------------

    def state(self) -> tuple[int, float, Source]:
        """(next sequence number, time of the last batch, source): enough for another router to go on from here."""
        done = self.next if self._work is None else self.next - 1
        return done, self._last_ts, Source.EXACT if self._complete else self.source

    def restore(self, next_sequence: int, last_ts: float, source: Source) -> None:
        """Go on where another router was; `Observed` holds already what that one knew. A replay is wanted."""
        self.next = next_sequence
        self._last_ts = last_ts
        self._begun = source is not Source.EXPECTED
        self._complete = source is Source.EXACT
        self._asking = True
        self._set_source(source)

    # -- order --------------------------------------------------------------------------------------------------

    def _receive(self, sequence: int, payload: bytes, now: float) -> None:
        """A live batch that is not simply the one due."""
        if self._is_stale(payload, now):
            return
        if self._adrift and sequence:
            self._lose(sequence)
        if sequence < self.next:
            if not self._is_other(sequence, payload):
                self.counts.duplicates += 1
                return
            self._begin_anew(now)
        was_behind = self.behind
        self._hold(sequence, payload)
        if sequence == self.next:
            self._asking = False
        if self.behind:
            self._on_time = max(self._on_time, sequence + 1)
            self.counts.gaps += not was_behind

    def _hold(self, sequence: int, payload: bytes) -> None:
        try:
            ts = stamp(payload)
        except BadBatch:
            ts = -math.inf
        self._held.put(sequence, ts, payload)

    def _turn(self) -> None:
        """Apply what is due, as far as one turn may go; then look after orphans; then say where that leaves us."""
        left = TURN_BYTES
        if self._work is not None:
            left = 0
            self._go_on()
        while left > 0 and self._work is None and self.next in self._held:
            payload = self._held.take(self.next)
            left -= len(payload) + _BATCH_BYTES
            self._apply(self.next, payload)
        if left > 0 and self._work is None and self._ingest.anchors:
            self._tell(self.next - 1, self._ingest.anchor(ANCHOR_HASHES))
        self._settle()

    def _replay_ended(self) -> None:
        self._asking = False
        if not self.next and self.believes_empty:  # it has published nothing yet, and holds nothing
            self._begun = self._complete = True
        if self.behind:
            self._lose(self._held.first)

    def _is_stale(self, payload: bytes, now: float) -> bool:
        """Whether a batch was made before the restart that was told of: it was still on its way."""
        if now > self._stale_until:
            return False
        try:
            stale = stamp(payload) <= self._stale_ts
        except BadBatch:
            return False
        self.counts.duplicates += stale
        return stale

    def _is_other(self, sequence: int, payload: bytes) -> bool:
        """Whether a batch with a number that was seen before is another batch: the engine began anew."""
        same = self._recent.is_same(sequence, payload)
        if same is not None:
            return not same
        try:
            return stamp(payload) > self._last_ts
        except BadBatch:
            return False

    # -- what follows -------------------------------------------------------------------------------------------

    def _apply(self, sequence: int, payload: bytes) -> None:
        """Carry out the batch that is due."""
        if sequence in self._held:
            self._held.take(sequence)
        if sequence == 0:
            self._complete = True
        self._begun = True
        self._adrift = False
        self.next = sequence + 1
        self._recent.note(sequence, payload)
        try:
            batch = decode(payload)
        except BadBatch:
            self._spoilt()
            return
        self.counts.unknown += batch.unknown
        self._work = self._carry_out(sequence, batch)
        self._go_on()

    def _go_on(self) -> None:
        """With the batch under way, up to its end or its next break."""
        assert self._work is not None
        try:
            for _ in self._work:
                return
        except BadBatch:
            self._spoilt()
        self._work = None

    def _carry_out(self, sequence: int, batch: Batch) -> Iterator[None]:
        cleared = self.counts.cleared
        yield from self._ingest.apply(batch.events)
        self._last_ts = batch.ts
        self.counts.batches += 1
        self._complete = self._complete or self.counts.cleared != cleared
        self._tell(sequence, self._ingest.told(), on_time=sequence >= self._on_time)

    def _spoilt(self) -> None:
        """The last batch made no sense: nobody knows what it said."""
        self.counts.malformed += 1
        self._complete = False
        self._tell(self.next - 1, self._ingest.clear())

    def _lose(self, sequence: int) -> None:
        """What lies before `sequence` cannot be had: nothing is known, and we go on from there."""
        self.counts.lost += 1
        self._forget(sequence)

    def _begin_anew(self, now: float) -> None:
        """The engine restarted."""
        self.counts.restarts += 1
        self._noticed = now
        self._last_ts = -math.inf
        self._on_time = 0
        self._asking = True
        self._forget(0)

    def _forget(self, sequence: int) -> None:
        last = self.next - 1
        self.next = sequence
        self._work = None
        self._begun = True
        self._adrift = False
        self._complete = False
        self._recent.clear()
        self._held.forget_before(sequence)
        self._tell(last, self._ingest.clear())

    def _tell(self, sequence: int, changes: tuple[Change, ...], *, on_time: bool = False) -> None:
        if not changes:
            return
        if self.on_changes is not None:
            self.on_changes(sequence, changes)
        if on_time and self.on_stored is not None:
            for change in changes:
                if isinstance(change, Stored) and change.medium == Medium.GPU:
                    self.on_stored(change.keys)

    def _settle(self) -> None:
        if self._ingest.mismatch is not None:
            self._set_source(Source.EXPECTED)
        elif self._complete:
            if not self.behind and self._work is None:
                self._set_source(Source.EXACT)
        elif self._begun:
            self._set_source(Source.RECOVERING)

    def _set_source(self, source: Source) -> None:
        if source is not self.source:
            self.source = source
            if self.on_source is not None:
                self.on_source(source)
