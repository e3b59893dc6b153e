"""Sets of rows, each kept once and known by a number: millions of blocks share some thousands of sets.

A set is made of *lives*. A row that is cleared begins another life; the blocks of the one that is over say so at once,
for the life is taken out of what every set shows, and are taken away later.
"""

from __future__ import annotations

EMPTY = 0
"""The number of the empty set, which always exists."""


class RowSets:
    """Set number <-> the set, as the bits of one integer; a set that nothing uses is forgotten."""

    __slots__ = ("_free", "_numbers", "_unborn", "bits", "masks", "shown", "uses")

    def __init__(self) -> None:
        self.masks = [0]
        """Set number -> its lives: bit n for life n."""
        self.shown = [0]
        """Set number -> the rows of those that are not over: bit r for row r."""
        self.uses = [1]
        """Set number -> how many blocks have it. The empty set is never given up."""
        self.bits: list[int] = []
        """Life -> its row, as a bit; 0 when it is over."""
        self._numbers = {0: EMPTY}
        self._free: list[int] = []
        self._unborn: list[int] = []

    def __len__(self) -> int:
        """Sets kept, the empty one included."""
        return len(self._numbers)

    def begin(self, row: int | None = None) -> int:
        """A life of the row, whose last one is over; None: one that nobody sees until `show`."""
        if not self._unborn:
            self._unborn.append(len(self.bits))
            self.bits.append(0)
        life = self._unborn.pop()
        self.bits[life] = 0 if row is None else 1 << row
        return life

    def show(self, life: int, row: int) -> None:
        """A life that nobody saw is the row's, whose last one is over. Reads all sets, as `end` does."""
        bit, flag = 1 << row, 1 << life
        self.bits[life] = bit
        self.shown = [rows | bit if mask & flag else rows for rows, mask in zip(self.shown, self.masks, strict=True)]

    def end(self, life: int) -> None:
        """Nobody sees this life any more. Reads all sets, some 40 ns each."""
        others = ~self.bits[life]
        self.bits[life] = 0
        self.shown = [rows & others for rows in self.shown]

    def release(self, life: int) -> None:
        """No set has this life any more: its number may be another's."""
        self.bits[life] = 0
        self._unborn.append(life)

    def with_life(self, number: int, life: int) -> int:
        """The set with this life beside its own, a new one if need be; `move` it to some use, or `settle` it."""
        return self._number(self.masks[number] | 1 << life, self.shown[number] | self.bits[life])

    def without_life(self, number: int, life: int) -> int:
        """The set without this life, which is one of its own."""
        return self._number(self.masks[number] ^ 1 << life, self.shown[number] & ~self.bits[life])

    def _number(self, mask: int, shown: int) -> int:
        found = self._numbers.get(mask)
        if found is not None:
            return found
        if self._free:
            found = self._free.pop()
            self.masks[found] = mask
            self.shown[found] = shown
        else:
            found = len(self.masks)
            self.masks.append(mask)
            self.shown.append(shown)
            self.uses.append(0)
        self._numbers[mask] = found
        return found

    def move(self, old: int, new: int, blocks: int) -> None:
        """So many blocks have another set now."""
        self.uses[new] += blocks if new else 0
        if old:
            self.uses[old] -= blocks
            self.settle(old)

    def settle(self, number: int) -> None:
        """Forget the set if nothing uses it."""
        if not self.uses[number]:
            del self._numbers[self.masks[number]]
            self.masks[number] = self.shown[number] = 0
            self._free.append(number)

    def seen(self) -> int:
        """Blocks that some row is seen to hold."""
        return sum(uses for uses, rows in zip(self.uses, self.shown, strict=True) if rows)
