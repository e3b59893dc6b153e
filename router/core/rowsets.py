"""Sets of rows, each kept once and known by a number: millions of blocks share some thousands of sets."""

from __future__ import annotations

EMPTY = 0
"""The number of the empty set, which always exists."""


class RowSets:
    """Set number <-> the set, as the bits of one integer; a set that nothing uses is forgotten."""

    __slots__ = ("_free", "_numbers", "masks", "uses")

    def __init__(self) -> None:
        self.masks = [0]
        """Set number -> its rows: bit r for row r."""
        self.uses = [1]
        """Set number -> how many blocks have it. The empty set is never given up."""
        self._numbers = {0: EMPTY}
        self._free: list[int] = []

    def __len__(self) -> int:
        """Sets kept, the empty one included."""
        return len(self._numbers)

    def number(self, mask: int) -> int:
        """The set's number, a new one if need be; `move` it to some use, or `settle` it."""
        found = self._numbers.get(mask)
        if found is not None:
            return found
        if self._free:
            found = self._free.pop()
            self.masks[found] = mask
        else:
            found = len(self.masks)
            self.masks.append(mask)
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
            self.masks[number] = 0
            self._free.append(number)
