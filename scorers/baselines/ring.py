"""A consistent-hash ring: a key keeps its replica when others come and go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

VIRTUAL_NODES = 256
"""Points of one replica on the ring: enough that shares differ by a few per cent."""
_KEPT_RINGS = 64
_KEPT_POINTS = 1 << 20
"""Points of all kept rings together, at 8 bytes each."""
_MASK = (1 << 64) - 1
_OWNER_MASK = (1 << 20) - 1
_OWNER = np.uint64(_OWNER_MASK)
_STEP = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: the gamma of SplitMix64 (Steele, Lea and Flood 2014), whose finaliser spreads the points."""


class Ring:
    """Where each replica's points lie on the circle of 64-bit hashes."""

    __slots__ = ("_points",)

    def __init__(self, points: NDArray[np.uint64]) -> None:
        """`points`: one row per replica."""
        owners = np.arange(len(points), dtype=np.uint64)[:, None]
        # A point's lowest bits, which decide nothing, say whose it is: to sort numbers is half of sorting by them.
        self._points = np.sort((points & ~_OWNER | owners).ravel())

    def __len__(self) -> int:
        """Points on it."""
        return len(self._points)

    def walk(self, key: int) -> Iterator[int]:
        """Indices of the replicas in the order in which they are met from `key` on, each once."""
        point, count = self._points.item, len(self._points)
        start = int(self._points.searchsorted(np.uint64(key & _MASK)))
        seen: set[int] = set()
        for step in range(start, start + count):
            owner: int = point(step % count) & _OWNER_MASK
            if owner not in seen:
                seen.add(owner)
                yield owner

    def owner(self, key: int) -> int:
        """Index of the first replica met from `key` on."""
        return next(self.walk(key))


class Rings:
    """The rings of the sets of replicas seen lately. A replica's points depend on its name alone."""

    __slots__ = ("_kept_points", "_rings", "_virtual_nodes")

    def __init__(self, virtual_nodes: int = VIRTUAL_NODES) -> None:
        if virtual_nodes < 1:
            raise ValueError(f"virtual_nodes must be at least 1, not {virtual_nodes}")
        self._virtual_nodes = virtual_nodes
        self._rings: OrderedDict[tuple[str, ...], Ring] = OrderedDict()
        self._kept_points = 0

    def of(self, names: Sequence[str]) -> Ring:
        """The ring of these replicas; its answers are indices into `names`."""
        key = tuple(names)
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = Ring(_points(key, self._virtual_nodes))
            self._kept_points += len(ring)
            while len(self._rings) > 1 and (len(self._rings) > _KEPT_RINGS or self._kept_points > _KEPT_POINTS):
                self._kept_points -= len(self._rings.popitem(last=False)[1])
        else:
            self._rings.move_to_end(key)
        return ring


def _points(names: Sequence[str], count: int) -> NDArray[np.uint64]:
    """`count` points of each name: the SplitMix64 sequence that its hash seeds. Shape (names, count).

    All at once: a loop over the points of 300 replicas would hold up every request for 40 ms.
    """
    seeds = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names], np.uint64)
    points: NDArray[np.uint64] = seeds[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _STEP
    points = (points ^ (points >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    points = (points ^ (points >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    points ^= points >> np.uint64(31)
    return points
