"""What a replica stored last on its GPU: kept in dicts, which are quick to write, until there is enough to be filed."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np

from kvroute.router.core.changes import Words


class Fresh(msgspec.Struct):
    """Announcements of one row that are not in its columns yet. They count as held from now on."""

    hashes: list[Words] = []
    keys: list[Words] = []
    known: dict[int, int] = {}
    """Engine hash -> key."""
    count: int = 0

    def add(self, hashes: Words, keys: Words, listed: list[int]) -> None:
        """`listed` are the keys again."""
        self.hashes.append(hashes)
        self.keys.append(keys)
        self.known.update(zip(hashes.tolist(), listed, strict=True))
        self.count += len(listed)

    def all(self) -> tuple[Words, Words]:
        """Hashes and keys of all, in order."""
        return np.concatenate(self.hashes), np.concatenate(self.keys)


def show(shown: dict[int, int], bit: int, keys: list[int]) -> None:
    """The row has these keys among its fresh ones; `shown` maps a key to all such rows, as bits."""
    if shown.keys().isdisjoint(keys):  # the usual case, at the speed of C
        shown.update(dict.fromkeys(keys, bit))
    else:
        for key in keys:
            shown[key] = shown.get(key, 0) | bit


def hide(shown: dict[int, int], bit: int, keys: list[int]) -> None:
    """The row has none of these keys among its fresh ones any more."""
    sets = list(map(shown.pop, keys, itertools.repeat(0)))
    if sets.count(bit) < len(sets):  # others have some of them
        for key, rows in zip(keys, sets, strict=True):
            if left := rows & ~bit:
                shown[key] = left
