"""What is to be done at a later time."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush


class Timers:
    """Calls in order of their times; those of the same time in the order in which they were asked for."""

    __slots__ = ("_count", "due")

    def __init__(self) -> None:
        self._count = 0
        self.due: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        """A heap; the first entry's first element is when the next is due [s]."""

    def at(self, when: float, act: Callable[..., None], *arguments: object) -> None:
        """Call `act(now, *arguments)` then."""
        self._count += 1
        heappush(self.due, (when, self._count, act, arguments))

    def fire(self) -> None:
        """Make the next call."""
        when, _, act, arguments = heappop(self.due)
        act(when, *arguments)
