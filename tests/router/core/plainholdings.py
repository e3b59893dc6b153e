"""What engines hold, as plain dicts: the slow truth that `Observed` is compared with."""

from __future__ import annotations

from collections import Counter


class PlainHoldings:
    """(row, medium) -> hash -> count and key."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, int], Counter[int]] = {}
        self.keys: dict[tuple[int, int], dict[int, int]] = {}

    def held(self, row: int, medium: int) -> set[int]:
        """Keys that the row holds at the medium."""
        return set(self.keys.get((row, medium), {}).values())

    def store(self, row: int, medium: int, hashes: list[int], keys: list[int]) -> set[int]:
        """Each hash once more; the keys that are new."""
        before = self.held(row, medium)
        self.counts.setdefault((row, medium), Counter()).update(hashes)
        self.keys.setdefault((row, medium), {}).update(zip(hashes, keys, strict=True))
        return self.held(row, medium) - before

    def remove(self, row: int, medium: int, hashes: list[int]) -> int:
        """Each hash once less; how many were unknown."""
        counts, keys = self.counts.get((row, medium), Counter()), self.keys.get((row, medium), {})
        unknown = 0
        for hash_ in hashes:
            if not counts[hash_]:
                unknown += 1
                continue
            counts[hash_] -= 1
            if not counts[hash_]:
                del keys[hash_]
        return unknown

    def clear(self, row: int) -> None:
        """Nothing is left in the row."""
        for at in [at for at in self.keys if at[0] == row]:
            del self.keys[at], self.counts[at]

    def holders(self, key: int, mediums: set[int]) -> int:
        """Rows with the key at any of the mediums, as bits."""
        rows = {row for (row, medium), keys in self.keys.items() if medium in mediums and key in keys.values()}
        return sum(1 << row for row in rows)

    def distinct(self) -> int:
        """Keys held by anyone anywhere."""
        return len({key for keys in self.keys.values() for key in keys.values()})
