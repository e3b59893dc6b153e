"""What KV events told that each replica holds: engine hash -> key and count per row and medium, key -> rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvroute.router.core.changes import Words


class Observed:
    """Plain tables; a columnar one takes its place."""

    def __init__(self) -> None:
        self._hashes: dict[tuple[int, int], dict[int, list[int]]] = {}
        self._holders: list[dict[int, int]] = [{}, {}, {}]

    def __len__(self) -> int:
        return len(set().union(*self._holders))

    @property
    def slow(self) -> bool:
        return bool(self._holders[1] or self._holders[2])

    def store(self, row: int, medium: int, hashes: Words, keys: Words) -> Words:
        table = self._hashes.setdefault((row, medium), {})
        holders = self._holders[medium]
        new = []
        for hash_, key in zip(hashes.tolist(), keys.tolist(), strict=True):
            known = table.get(hash_)
            if known is not None:
                known[1] += 1
                continue
            table[hash_] = [key, 1]
            if not holders.get(key, 0) >> row & 1:
                holders[key] = holders.get(key, 0) | 1 << row
                new.append(key)
        return np.array(new, np.uint64)

    def remove(self, row: int, medium: int, hashes: Words) -> int:
        table = self._hashes.get((row, medium), {})
        unknown = 0
        for hash_ in hashes.tolist():
            known = table.get(hash_)
            if known is None:
                unknown += 1
                continue
            known[1] -= 1
            if not known[1]:
                del table[hash_]
                self._release(row, medium, known[0])
        return unknown

    def _release(self, row: int, medium: int, key: int) -> None:
        holders = self._holders[medium]
        left = holders.get(key, 0) & ~(1 << row)
        if left:
            holders[key] = left
        else:
            holders.pop(key, None)

    def key_of(self, row: int, hash: int) -> int | None:
        for medium in range(3):
            known = self._hashes.get((row, medium), {}).get(hash)
            if known is not None:
                return known[0]
        return None

    def clear(self, row: int) -> None:
        for medium in range(3):
            for key, _ in self._hashes.pop((row, medium), {}).values():
                self._release(row, medium, key)

    def blocks(self, row: int, medium: int | None = None) -> int:
        return sum(len(t) for (r, m), t in self._hashes.items() if r == row and medium in (None, m))

    def holders(self, key: int) -> int:
        return self._holders[0].get(key, 0)

    def holders_within(self, key: int, reach: int) -> int:
        """Rows that hold the key at this medium or a faster one."""
        found = 0
        for medium in range(reach + 1):
            found |= self._holders[medium].get(key, 0)
        return found

    def holders_anywhere(self, key: int) -> int:
        return self.holders_within(key, 2)

    def depth(self, row: int, keys: Sequence[int]) -> int:
        depth = 0
        while depth < len(keys) and self.holders(keys[depth]) >> row & 1:
            depth += 1
        return depth

    def contents(self, row: int) -> list[tuple[int, Words, Words, NDArray[np.uint16]]]:
        found = []
        for medium in range(3):
            table = self._hashes.get((row, medium), {})
            if table:
                found.append(
                    (
                        medium,
                        np.array(list(table), np.uint64),
                        np.array([key for key, _ in table.values()], np.uint64),
                        np.array([count for _, count in table.values()], np.uint16),
                    )
                )
        return found

    def load(self, row: int, contents: list[tuple[int, Words, Words, NDArray[np.uint16]]]) -> None:
        self.clear(row)
        for medium, hashes, keys, counts in contents:
            self.store(row, medium, hashes, keys)
            table = self._hashes[(row, medium)]
            for hash_, count in zip(hashes.tolist(), counts.tolist(), strict=True):
                table[hash_][1] = count
