"""What the engines themselves say that they hold: engine hash -> key per replica, and key -> replicas, in columns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from kvroute.router.core.chains import mixing, repeats
from kvroute.router.core.changes import Medium, Words
from kvroute.router.core.fresh import Fresh, hide, show
from kvroute.router.core.held import Held
from kvroute.router.core.holders import Holders
from kvroute.router.core.rowsets import RowSets

Contents: TypeAlias = tuple[int, Words, Words, NDArray[np.uint16]]
"""All that a row holds at a medium: the medium, the engine's hashes, our key of each, how often each was announced."""
_BULK = 96
"""Blocks in a call from which numpy is quicker than a loop: some 60 of its calls, of a microsecond each."""
FILE_BLOCKS = 1024
"""Of a row, put aside until they are entered at once, in less than a millisecond."""
SWEEP_BLOCKS = 1024
"""Of a row that was cleared, taken away in one step, about half a millisecond."""


class _Past(msgspec.Struct):
    """What a row held when it was cleared, and nobody sees any more."""

    life: int
    parts: list[tuple[int, Held]]
    """Per medium."""
    at: int = 1
    """The next entry of the last part."""


class Staged(msgspec.Struct, frozen=True):
    """What some row is going to hold, and nobody sees yet."""

    life: int
    held: dict[int, Held] = msgspec.field(default_factory=dict)


class Observed:
    """Blocks per (row, medium), told by KV events. Rows are small integers without an upper bound.

    An engine may announce a hash several times, and holds it until it has taken it back as many times.

    A row of any size is cleared at once, for all who read: it begins another life, in which it holds nothing. What it
    held is taken away later, in steps: by `sweep`, and as blocks are stored.
    """

    __slots__ = (
        "_fresh",
        "_gpu",
        "_held",
        "_lives",
        "_mixing",
        "_owed",
        "_past",
        "_rowsets",
        "_shared",
        "_tables",
        "holders",
        "slow",
    )

    def __init__(self, seed: int = 0) -> None:
        """`seed` (64 bits) shall be secret where engines may be hostile: it decides which keys fall together."""
        self._mixing = mixing(seed)
        self._rowsets = RowSets()
        self._gpu = Holders(self._mixing, self._rowsets)
        self._tables: dict[int, Holders] = {Medium.GPU: self._gpu}
        self._held: dict[int, dict[int, Held]] = {}
        """Row -> medium -> what it holds there; nothing empty is kept."""
        self._lives: dict[int, int] = {}
        """Row -> its life, for rows that hold anything."""
        self._past: deque[_Past] = deque()
        self._fresh: dict[int, Fresh] = {}
        """Row -> what is put aside."""
        self._owed = 0
        """Blocks stored since some were swept."""
        self._shared = 0
        """For each key, how many mediums hold it beyond the first."""
        self.holders: Callable[[int], int] = self._gpu.holders
        """The rows that hold a key on GPU, as bits: the GPU table's own method, which saves a call."""
        self.slow = False
        """Whether any medium but GPU holds anything, swept or not: otherwise `holders` says all that `holders_anywhere`
        does."""

    def __bool__(self) -> bool:
        """Whether anyone may hold anything."""
        return bool(self._fresh) or any(table.live for table in self._tables.values())

    def __len__(self) -> int:
        """Distinct keys held by anyone, at any medium. With slower mediums, cleared rows' too until swept."""
        for row in list(self._fresh):
            self._file(row)
        if len(self._tables) == 1:
            return self._rowsets.seen()
        return sum(table.live for table in self._tables.values()) - self._shared

    def store(self, row: int, medium: int, hashes: Words, keys: Words) -> None:
        """The row holds each hash once more at this medium; it stands for the key beside it, from now on.

        Columns are quick to write many at a time: what comes in small calls is put aside, and filed with what follows.
        Readers see it all the same; only a key that a hash stood for before may be seen until then.
        """
        if len(hashes) != len(keys):
            raise ValueError(f"{len(hashes)} hashes for {len(keys)} keys")
        if not len(hashes):
            return
        if medium != Medium.GPU or len(hashes) >= FILE_BLOCKS:
            self._file(row)
            self._enter(row, medium, hashes, keys)
            return
        fresh = self._fresh.get(row)
        if fresh is None:
            fresh = self._fresh[row] = Fresh()
        listed = keys.tolist()
        fresh.add(hashes, keys, listed)
        show(self._gpu.fresh, 1 << row, listed)
        if fresh.count >= FILE_BLOCKS:
            self._file(row)

    def _file(self, row: int) -> None:
        """Enter what was put aside of the row."""
        fresh = self._fresh.pop(row, None)
        if fresh is not None:
            hashes, keys = fresh.all()
            hide(self._gpu.fresh, 1 << row, keys.tolist())
            self._enter(row, Medium.GPU, hashes, keys)

    def _enter(self, row: int, medium: int, hashes: Words, keys: Words) -> None:
        if self._past:
            self._pay(len(hashes))
        table = self._table(medium)
        mediums = self._held.setdefault(row, {})
        held = mediums.get(medium)
        if held is None:
            held = mediums[medium] = Held(self._mixing)
        life = self._life(row)
        if len(hashes) >= _BULK:
            found = table.find_many(keys)
            plain = held.lacks(hashes) & table.lacks(life, keys, found)
            if plain.all():
                self._fill(medium, held, life, hashes, keys, found)
                return
            self._fill(medium, held, life, hashes[plain], keys[plain], found[plain])
            hashes, keys = hashes[~plain], keys[~plain]
        fresh, replaced = held.store(hashes.tolist(), keys.tolist())
        before = table.live
        new = table.add(life, fresh)
        if len(self._tables) > 1 and table.live > before:
            self._share(medium, [key for key in new if table.is_alone(life, key)], 1)
        if replaced:
            self._forgotten(medium, table.discard(life, replaced))

    def _fill(self, medium: int, held: Held, life: int, hashes: Words, keys: Words, found: NDArray[np.intp]) -> None:
        held.fill(hashes, keys, np.ones(len(hashes), np.uint16))
        self._share(medium, self._tables[medium].add_many(life, keys, found), 1)

    def remove(self, row: int, medium: int, hashes: Words) -> int:
        """The row holds each hash once less at this medium. Unknown ones change nothing; their number is returned."""
        listed = hashes.tolist()
        fresh = self._fresh.get(row)
        if fresh is not None and not fresh.known.keys().isdisjoint(listed):
            self._file(row)
        held = self._held.get(row, {}).get(medium)
        if held is None:
            return len(listed)
        gone, unknown = held.remove(listed)
        if gone:
            self._forgotten(medium, self._tables[medium].discard(self._lives[row], gone))
            if not held.live:
                self._leave(row, medium)
        return unknown

    def clear(self, row: int) -> None:
        """The row holds nothing any more, at any medium. Takes the same time for any number of blocks."""
        fresh = self._fresh.pop(row, None)
        if fresh is not None:
            hide(self._gpu.fresh, 1 << row, fresh.all()[1].tolist())
        mediums = self._held.pop(row, None)
        if mediums:
            life = self._lives.pop(row)
            self._rowsets.end(life)
            self._past.append(_Past(life, list(mediums.items())))

    def sweep(self, blocks: int = SWEEP_BLOCKS) -> bool:
        """Take away some blocks of rows that were cleared. Whether there are more."""
        while self._past and blocks > 0:
            past = self._past[0]
            if not past.parts:
                self._past.popleft()
                self._rowsets.release(past.life)
                continue
            medium, held = past.parts[-1]
            last = min(past.at + blocks, len(held.words))
            blocks -= last - past.at
            table = self._tables.get(medium)
            if table is not None:  # it goes with its last key, and there may be entries of no key behind
                self._forgotten(medium, table.discard_many(past.life, held.part(past.at, last)))
            past.at = last
            if last == len(held.words):
                if table is not None:
                    table.forget(past.life)
                past.parts.pop()
                past.at = 1
        return bool(self._past)

    def contents(self, row: int) -> list[Contents]:
        """A copy of all that the row holds, which `load` takes."""
        self._file(row)
        return [(medium, *held.contents()) for medium, held in sorted(self._held.get(row, {}).items())]

    def load(self, row: int, contents: Iterable[Contents]) -> None:
        """Replace what the row holds. The hashes of a medium are distinct, or the last of equal ones counts."""
        staged = self.stage()
        try:
            for part in contents:
                self.put(staged, part)
        except ValueError:
            self.drop(staged)
            raise
        self.show(row, staged)

    def stage(self) -> Staged:
        """Something that nobody sees: `put` into it, then `show` it, or `drop` it."""
        return Staged(self._rowsets.begin())

    def put(self, staged: Staged, part: Contents) -> None:
        """Put in some more. A hash that is there already is left out; of equal ones in a part the last counts."""
        medium, hashes, keys, counts = part
        if not len(hashes) == len(keys) == len(counts):
            raise ValueError(f"{len(hashes)} hashes, {len(keys)} keys, {len(counts)} counts")
        at = np.flatnonzero(counts)[::-1]
        if repeats(hashes[at]):
            at = at[np.unique(hashes[at], return_index=True)[1]]
        held = staged.held.get(medium)
        if held is not None:
            at = at[held.find_many(hashes[at]) == 0]
        if not len(at):
            return
        if held is None:
            held = staged.held[medium] = Held(self._mixing)
            held.fill(hashes[at], keys[at], counts[at])
            self._share(medium, self._table(medium).load(staged.life, keys[at]), 1)
            return
        held.fill(hashes[at], keys[at], counts[at])
        self._hold(staged.life, medium, keys[at])

    def _hold(self, life: int, medium: int, keys: Words) -> None:
        """The life holds each key, for one hash more."""
        table = self._table(medium)
        found = table.find_many(keys)
        plain = table.lacks(life, keys, found)
        self._share(medium, table.add_many(life, keys[plain], found[plain]), 1)
        if not plain.all():
            before = table.live
            new = table.add(life, keys[~plain].tolist())
            if len(self._tables) > 1 and table.live > before:
                self._share(medium, [key for key in new if table.is_alone(life, key)], 1)

    def show(self, row: int, staged: Staged) -> None:
        """What was put in takes the place of what the row held: all at once, for all who read."""
        self.clear(row)
        if not staged.held:
            self._rowsets.release(staged.life)
            return
        self._rowsets.show(staged.life, row)
        self._lives[row] = staged.life
        self._held[row] = staged.held

    def drop(self, staged: Staged) -> None:
        """It is not needed after all."""
        if staged.held:
            self._past.append(_Past(staged.life, list(staged.held.items())))
        else:
            self._rowsets.release(staged.life)

    def key_of(self, row: int, hash: int) -> int | None:
        """Our key behind an engine's hash, at any medium."""
        fresh = self._fresh.get(row)
        if fresh is not None and hash in fresh.known:
            return fresh.known[hash]
        for held in self._held.get(row, {}).values():
            key = held.key_of(hash)
            if key is not None:
                return key
        return None

    def blocks(self, row: int, medium: int | None = None) -> int:
        """Distinct hashes that the row holds, at one medium or summed over all.

        Asked at every decision, so nothing is filed: hashes put aside count, those held already too.
        """
        mediums = self._held.get(row, {})
        found = sum(held.live for at, held in mediums.items() if medium is None or at == medium)
        if not medium and row in self._fresh:
            found += len(self._fresh[row].known)
        return found

    def holders_within(self, key: int, reach: int) -> int:
        """The rows that hold the key at medium `reach` or a faster one, as bits."""
        found = 0
        for medium, table in self._tables.items():
            if medium <= reach:
                found |= table.holders(key)
        return found

    def holders_anywhere(self, key: int) -> int:
        """The rows that hold the key at any medium, as bits."""
        found = 0
        for table in self._tables.values():
            found |= table.holders(key)
        return found

    def runs(self, keys: Sequence[int]) -> list[tuple[int, int]]:
        """Who holds each key on GPU: (last position, rows as bits) of each stretch with the same holders."""
        return self._gpu.runs(keys)

    def depth(self, row: int, keys: Sequence[int]) -> int:
        """How many leading keys the row holds on GPU; who holds a block holds its parents, so most are not read."""
        holders = self.holders
        low, high, step = 0, len(keys), 1
        while low < high:
            at = min(low + step, high) - 1
            if holders(keys[at]) >> row & 1:
                low = at + 1
                step += step
            else:
                high = at
                step = max(1, (high - low + 1) >> 1)
        return low

    def _table(self, medium: int) -> Holders:
        table = self._tables.get(medium)
        if table is None:
            table = self._tables[medium] = Holders(self._mixing, self._rowsets)
            self.slow = True
        return table

    def _life(self, row: int) -> int:
        life = self._lives.get(row)
        if life is None:
            life = self._lives[row] = self._rowsets.begin(row)
        return life

    def _pay(self, blocks: int) -> None:
        """Sweep twice as much as is stored: what is left of cleared rows shrinks even if nobody else sweeps."""
        self._owed += 2 * blocks
        if self._owed >= SWEEP_BLOCKS:
            self.sweep(self._owed)
            self._owed = 0

    def _leave(self, row: int, medium: int) -> None:
        mediums = self._held[row]
        del mediums[medium]
        if not mediums:
            del self._held[row]
            self._rowsets.release(self._lives.pop(row))

    def _forgotten(self, medium: int, keys: Sequence[int] | Words) -> None:
        """Nobody holds these keys at this medium any more."""
        if len(self._tables) == 1:
            return
        self._share(medium, keys, -1)
        if medium != Medium.GPU and not self._tables[medium].live:
            del self._tables[medium]
            self.slow = len(self._tables) > 1

    def _share(self, medium: int, keys: Sequence[int] | Words, by: int) -> None:
        """Note which of the keys that came to a medium, or left it, are held at another."""
        if not len(keys) or len(self._tables) == 1:
            return
        words = np.asarray(keys, np.uint64)
        elsewhere = np.zeros(len(words), np.bool_)
        for other, table in self._tables.items():
            if other != medium:
                elsewhere |= table.find_many(words) > 0
        self._shared += by * int(np.count_nonzero(elsewhere))
