"""A stream that goes on by itself with what one turn of the event loop left over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from kvroute.router.knowledge.events.stream import Stream


class Paced:
    """Implements the subscription's Sink over a `Stream`."""

    def __init__(self, stream: Stream, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self._clock = clock
        self._due: asyncio.Handle | None = None

    @property
    def next(self) -> int:
        """See `Stream.next`."""
        return self.stream.next

    @property
    def wants(self) -> int | None:
        """See `Stream.wants`."""
        return self.stream.wants

    def live(self, sequence: int, payload: bytes, now: float) -> None:
        """See `Stream.live`."""
        self.stream.live(sequence, payload, now)
        self._go_on()

    def replayed(self, batches: Sequence[tuple[int, bytes]], complete: bool, now: float) -> None:
        """See `Stream.replayed`."""
        self.stream.replayed(batches, complete, now)
        self._go_on()

    def unreplayable(self, now: float) -> None:
        """See `Stream.unreplayable`."""
        self.stream.unreplayable(now)
        self._go_on()

    def restarted(self, now: float) -> None:
        """See `Stream.restarted`."""
        self.stream.restarted(now)
        self._go_on()

    def reset(self, now: float) -> None:
        """See `Stream.reset`."""
        self.stream.reset(now)
        self._go_on()

    def sent(self, keys: Sequence[int]) -> None:
        """See `Stream.sent`."""
        self.stream.sent(keys)
        self._go_on()

    def close(self) -> None:
        """Leave what is left undone."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _go_on(self) -> None:
        if self._due is None and self.stream.busy:
            self._due = asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        self._due = None
        self.stream.step(self._clock())
        self._go_on()
