"""A consistent-hash ring: a key keeps its replica when others come and go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

VIRTUAL_NODES = 256
"""Points of one replica on the ring: enough that shares differ by a few per cent."""
_KEPT_RINGS = 64
_KEPT_NAMES = 4096
_MASK = (1 << 64) - 1


class Ring:
    """Where each replica's points lie on the circle of 64-bit hashes."""

    __slots__ = ("_owners", "_points")

    def __init__(self, points: NDArray[np.uint64], owners: list[int]) -> None:
        self._points = points
        self._owners = owners

    def walk(self, key: int) -> Iterator[int]:
        """Indices of the replicas in the order in which they are met from `key` on, each once."""
        owners = self._owners
        start = int(self._points.searchsorted(np.uint64(key & _MASK)))
        seen: set[int] = set()
        for step in range(start, start + len(owners)):
            owner = owners[step % len(owners)]
            if owner not in seen:
                seen.add(owner)
                yield owner

    def owner(self, key: int) -> int:
        """Index of the first replica met from `key` on."""
        return next(self.walk(key))


class Rings:
    """The rings of the sets of replicas seen lately. A replica's points depend on its name alone."""

    __slots__ = ("_points", "_rings", "_virtual_nodes")

    def __init__(self, virtual_nodes: int = VIRTUAL_NODES) -> None:
        if virtual_nodes < 1:
            raise ValueError(f"virtual_nodes must be at least 1, not {virtual_nodes}")
        self._virtual_nodes = virtual_nodes
        self._rings: dict[tuple[str, ...], Ring] = {}
        self._points: dict[str, NDArray[np.uint64]] = {}

    def of(self, names: Sequence[str]) -> Ring:
        """The ring of these replicas; its answers are indices into `names`."""
        key = tuple(names)
        ring = self._rings.get(key)
        if ring is None:
            ring = self._build(key)
            if len(self._rings) >= _KEPT_RINGS:
                self._rings.clear()
            if len(self._points) >= _KEPT_NAMES:
                self._points.clear()
            self._rings[key] = ring
        return ring

    def _build(self, names: tuple[str, ...]) -> Ring:
        points = np.concatenate([self._points_of(name) for name in names])
        owners = np.repeat(np.arange(len(names)), self._virtual_nodes)
        order = points.argsort(kind="stable")
        return Ring(points[order], owners[order].tolist())

    def _points_of(self, name: str) -> NDArray[np.uint64]:
        points = self._points.get(name)
        if points is None:
            points = np.array(
                [xxhash.xxh3_64_intdigest(f"{name}#{i}".encode()) for i in range(self._virtual_nodes)], np.uint64
            )
            self._points[name] = points
        return points
