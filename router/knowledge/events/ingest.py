"""One replica's events, carried out: re-hashed into our keys, entered in what is observed, told to who listens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from kvroute.router.core.changes import Change, Cleared, Medium, Removed, Stored, Words
from kvroute.router.core.observed import Observed
from kvroute.router.knowledge.events import rehash
from kvroute.router.knowledge.events.anchors import Anchors
from kvroute.router.knowledge.events.batch import BadBatch, BlockRemoved, BlockStored, Event
from kvroute.router.knowledge.events.counts import StreamCounts
from kvroute.router.knowledge.events.fields import gathered, length
from kvroute.router.knowledge.events.orphans import Orphans

SLICE_BLOCKS = 2048
"""Blocks of ours between two breaks, some 4 ms. A block of the engine is of no more."""
_EVENT_BLOCKS = 4
"""What an event costs beside its blocks [blocks]."""
_WHOLE = frozenset((None, "full_attention", "mla_attention", "sink_full_attention"))
"""Kinds of caches in which a block can be used exactly when all blocks before it can."""
_GPU = frozenset((None, "GPU", "gpu"))
_CPU = frozenset(("CPU", "cpu"))


class Mismatch(msgspec.Struct, frozen=True):
    """The engine's blocks cannot be told in ours."""

    engine_tokens: int
    """Its block size [tokens]."""
    own_tokens: int
    """Ours, which does not divide it [tokens]."""


class Ingest:
    """What the events of one replica (its row) do to `Observed`."""

    def __init__(self, row: int, observed: Observed, block_tokens: int | None, counts: StreamCounts) -> None:
        self.block_tokens = block_tokens
        """Size of our blocks; the engine's, where it was not given [tokens]."""
        self.mismatch: Mismatch | None = None
        self._row = row
        self._observed = observed
        self._counts = counts
        self._orphans = Orphans(counts)
        self.anchors = Anchors(self._orphans)
        self._parts = 1
        """Blocks of ours in one of the engine's."""
        self._group: int | None = None
        self._grouped = False
        self._changes: list[Change] = []
        self._medium = 0
        self._hashes: list[Words] = []
        self._keys: list[Words] = []

    def apply(self, events: Sequence[Event]) -> Iterator[None]:
        """Carry out the events of one batch, in order. Where it is a lot, breaks are taken: nothing else may be done
        here before it goes on. In the end, `told` says what changed.

        Raises:
            BadBatch: an event makes no sense. Those before it are carried out: the caller has to clear.
        """
        work = 0
        for event, hashes, told in gathered(events):
            if work > SLICE_BLOCKS:
                self._flush()
                yield
                work = 0
            work += len(hashes) * self._parts + told * _EVENT_BLOCKS
            if isinstance(event, BlockStored):  # long fields without many blocks
                work += (len(event.token_ids) >> 6) + (len(event.extra_keys) >> 3)
            if work > SLICE_BLOCKS:
                yield
            if isinstance(event, BlockStored):
                yield from self._store(event, hashes)
            elif isinstance(event, BlockRemoved):
                yield from self._remove(event, hashes)
            else:
                self._counts.cleared += 1
                self._clear()
        self._flush()

    def told(self) -> tuple[Change, ...]:
        """What changed since this was last asked, in our keys."""
        changes, self._changes = tuple(self._changes), []
        return changes

    def anchor(self, hashes: int) -> tuple[Change, ...]:
        """Look for the place of orphans, for about so many hashes of work. What changed."""
        for parent, key in self.anchors.search(hashes):
            if not self._orphans.is_gone(parent) and self._observed.key_of(self._row, parent) is None:
                self._put(Medium.GPU, rehash.as_words([parent]), rehash.as_words([key]))
            self._adopt(parent, key)
        self._flush()
        return self.told()

    def clear(self) -> tuple[Change, ...]:
        """Forget what the replica holds, and what was not finished. What changed."""
        self._grouped = False
        self._clear()
        return self.told()

    # -- the kinds of events ------------------------------------------------------------------------------------

    def _store(self, event: BlockStored, hashes: Words) -> Iterator[None]:
        count = len(hashes)
        if not self._is_ours(event):
            self._counts.ignored += count
        elif not length(event.token_ids):
            for first in range(0, count, SLICE_BLOCKS):
                if first:
                    yield
                self._copy(_medium(event.medium), hashes[first : first + SLICE_BLOCKS])
        elif (told := rehash.read(event, hashes)) is None or not self._fits(event.block_size):
            self._counts.unusable += count
        else:
            assert self.block_tokens is not None
            slice_ = SLICE_BLOCKS // self._parts
            for first in range(0, count, slice_):
                if count > slice_:
                    self._flush()
                    yield
                last = min(first + slice_, count)
                self._place(_medium(event.medium), hashes[first:last], told.run(first, last, self.block_tokens))

    def _place(self, medium: int, hashes: Words, run: rehash.Run) -> None:
        """Enter a run behind its parent, or keep it aside."""
        parent = run.root if run.parent is None else self._key_of(run.parent)
        if parent is not None:
            self._put(medium, rehash.spread(hashes, self._parts), rehash.keys(run, parent))
            return
        told = hashes.tolist()
        self._orphans.add(medium, told, run)
        assert run.parent is not None
        if self._orphans.get(run.parent) is None:
            self.anchors.orphaned(told[0])

    def _copy(self, medium: int, hashes: Words) -> None:
        """Blocks that the engine copied: what they are is known from where they were."""
        found = [(hash_, key) for hash_ in hashes.tolist() if (key := self._key_of(hash_)) is not None]
        self._counts.stored_unknown += len(hashes) - len(found)
        if found:
            self._put(medium, *_columns(found))

    def _remove(self, event: BlockRemoved, hashes: Words) -> Iterator[None]:
        if self._grouped and event.group_idx != self._group:
            self._counts.ignored += len(hashes)
            return
        slice_ = SLICE_BLOCKS // self._parts
        for first in range(0, len(hashes), slice_):
            if first:
                self._flush()
                yield
            self._take(_medium(event.medium), hashes[first : first + slice_])

    def _take(self, medium: int, hashes: Words) -> None:
        if len(self._orphans):
            hashes = rehash.as_words([hash_ for hash_ in hashes.tolist() if not self._orphans.remove(medium, hash_)])
        if not len(hashes):
            return
        hashes = rehash.spread(hashes, self._parts)
        if self._keys or medium != self._medium:
            self._flush()
            self._medium = medium
        self._hashes.append(hashes)

    def _clear(self) -> None:
        self._hashes.clear()
        self._keys.clear()
        self._orphans.clear()
        self.anchors.clear()
        self._observed.clear(self._row)
        self._changes = [Cleared()]

    # -- what they need -----------------------------------------------------------------------------------------

    def _is_ours(self, event: BlockStored) -> bool:
        """Whether the event is of the group that is indexed: the first one whose blocks are plain prefixes."""
        if event.kv_cache_spec_kind not in _WHOLE:
            return False
        if not self._grouped:
            self._grouped = True
            self._group = event.group_idx
        return event.group_idx == self._group

    def _fits(self, engine_tokens: int) -> bool:
        """Whether the engine's blocks can be told in ours."""
        if self.block_tokens is None:
            self.block_tokens = engine_tokens
        if engine_tokens > SLICE_BLOCKS * self.block_tokens:
            raise BadBatch(f"block_size is {engine_tokens}, more than {SLICE_BLOCKS} blocks of ours")
        if engine_tokens % self.block_tokens:
            self.mismatch = Mismatch(engine_tokens, self.block_tokens)
            return False
        self.mismatch = None
        self._parts = engine_tokens // self.block_tokens
        return True

    def _key_of(self, hash_: int) -> int | None:
        key = self._observed.key_of(self._row, hash_)
        if key is None and self._keys:
            self._flush()
            key = self._observed.key_of(self._row, hash_)
        return key

    # -- writing, as few times as order permits -----------------------------------------------------------------

    def _put(self, medium: int, hashes: Words, keys: Words) -> None:
        if (self._hashes and not self._keys) or medium != self._medium:
            self._flush()
            self._medium = medium
        self._hashes.append(hashes)
        self._keys.append(keys)
        if len(self._orphans):
            for hash_, key in zip(hashes.tolist(), keys.tolist(), strict=True):
                if self._orphans.is_awaited(hash_):
                    self._adopt(hash_, key)

    def _adopt(self, hash_: int, key: int) -> None:
        """Enter the orphans behind a block that is known now."""
        adopted = self._orphans.adopt(hash_, key)
        for medium in Medium:
            found = [(child, child_key) for at, child, child_key in adopted if at == medium]
            if found:
                self._put(medium, *_columns(found))

    def _flush(self) -> None:
        """Write what was gathered: stores of one medium, or removals."""
        if not self._hashes:
            return
        hashes = _joined(self._hashes)
        if self._keys:
            keys = _joined(self._keys)
            self._observed.store(self._row, self._medium, hashes, keys)
            self._changes.append(Stored(self._medium, hashes, keys))
            self._counts.stored += len(hashes)
        else:
            unknown = self._observed.remove(self._row, self._medium, hashes)
            self._changes.append(Removed(self._medium, hashes))
            self._counts.removed += len(hashes) - unknown
            self._counts.removed_unknown += unknown
        self._hashes = []
        self._keys = []


def _joined(parts: list[Words]) -> Words:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _columns(pairs: list[tuple[int, int]]) -> tuple[Words, Words]:
    """(hash, key) pairs as hashes and keys."""
    return rehash.as_words([hash_ for hash_, _ in pairs]), rehash.as_words([key for _, key in pairs])


def _medium(name: str | None) -> int:
    """Names that are not known are of something slower than memory."""
    return Medium.GPU if name in _GPU else Medium.CPU if name in _CPU else Medium.DISK
