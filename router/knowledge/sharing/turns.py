"""Long work in small pieces, so that requests are never kept waiting by it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter

TURN_SECONDS = 0.003
"""One task works so long at a stretch; several may follow each other before it is a request's turn."""


class Turn:
    """One task's stretch of work. Others have their turn whenever it has become too long."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = perf_counter() + TURN_SECONDS

    async def give(self) -> None:
        """Let others run, if it is time."""
        if perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = perf_counter() + TURN_SECONDS

    async def through(self, steps: Iterator[None]) -> None:
        """All steps, with pauses in between."""
        for _ in steps:
            await self.give()
