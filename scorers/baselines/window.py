"""Seconds of work given to each replica within a sliding time, in memory that does not grow with the rate."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np

from kvroute.scorers.contract import Floats

_SLOTS = 60
"""Parts of the window: it slides by one part at a time."""
_NANOSECONDS = 1e9


class Window:
    """Sums per replica over the last `span` seconds, by name. A replica without work in it takes no memory."""

    __slots__ = ("_slot_seconds", "_slots", "_sums")

    def __init__(self, span: float) -> None:
        self._slot_seconds = span / _SLOTS
        self._slots: deque[tuple[int, Counter[str]]] = deque()
        self._sums: Counter[str] = Counter()  # in whole nanoseconds: what is taken away is exactly what was added

    def add(self, name: str, seconds: float, now: float) -> None:
        """A replica was given so many seconds of work."""
        number = self._slide(now)
        if not self._slots or self._slots[-1][0] < number:
            self._slots.append((number, Counter()))
        work = int(seconds * _NANOSECONDS)
        self._slots[-1][1][name] += work
        self._sums[name] += work

    def seconds(self, names: Sequence[str], now: float) -> Floats:
        """Sums of these replicas, shape (n,) [seconds]."""
        self._slide(now)
        known = self._sums.get
        return np.array([known(name, 0) for name in names]) / _NANOSECONDS

    def _slide(self, now: float) -> int:
        """Forget what has left the window; the number of the part that holds `now`."""
        number = int(now // self._slot_seconds)
        while self._slots and self._slots[0][0] <= number - _SLOTS:
            self._forget(self._slots.popleft()[1])
        return number

    def _forget(self, slot: Counter[str]) -> None:
        for name, work in slot.items():
            self._sums[name] -= work
            if not self._sums[name]:
                del self._sums[name]
