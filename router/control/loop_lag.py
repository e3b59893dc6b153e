"""Samples how late the event loop runs: the time by which a timer comes after its due time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class LoopLag:
    """Calls `observe(seconds late)` every `interval` seconds between `start` and `close`."""

    __slots__ = ("_due", "_handle", "_interval", "_observe")

    def __init__(self, observe: Callable[[float], None], interval: float = 0.1) -> None:
        self._observe = observe
        self._interval = interval
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        self._arm(asyncio.get_running_loop())

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + self._interval
        self._handle = loop.call_at(self._due, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        # uvloop's timers are rounded to milliseconds and may fire early by as much.
        self._observe(max(0.0, loop.time() - self._due))
        self._arm(loop)
