"""Reads many ZMQ sockets on the event loop, without letting all of them together hold it up for long."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import zmq

TURN_SECONDS = 0.001
"""What one turn of the loop may spend reading, whoever sends how much. One message is always finished."""
_SHARE = 16
"""Messages of one socket before another has its turn."""


class Readable(Protocol):
    """A socket that has something to read."""

    def read_one(self) -> bool:
        """Take one message; False where there is none (for now)."""
        ...


class Intake:
    """All ZMQ sockets of one loop. Their descriptors only say that something *may* have come (they are edge-triggered:
    nothing more is said until a read found nothing), so a socket stays in line until it has been read empty."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        turn_seconds: float = TURN_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.handled = 0
        """Messages read so far."""
        self.cut_short = 0
        """Turns that ended with messages still waiting."""
        self._loop = loop
        self._turn_seconds = turn_seconds
        self._clock = clock
        self._line: deque[Readable] = deque()
        self._in_line: set[Readable] = set()
        self._turn_due = False

    def add(self, socket: zmq.Socket[bytes], reader: Readable) -> None:
        """Call `reader` whenever the socket has messages, until `remove`. What came before is read too."""
        self._loop.add_reader(socket.fileno(), self.look, reader)
        self.look(reader)

    def remove(self, socket: zmq.Socket[bytes], reader: Readable) -> None:
        """Stop reading; to be called before the socket is closed."""
        self._loop.remove_reader(socket.fileno())
        self._done(reader)

    def look(self, reader: Readable) -> None:
        """There may be something to read. Needed after a *send* on the socket too: it eats the descriptor's signal."""
        if reader not in self._in_line:
            self._in_line.add(reader)
            self._line.append(reader)
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Read a few messages of each in turn until all is read or the time is up."""
        deadline = self._clock() + self._turn_seconds
        self._turn_due = False
        try:
            while self._line and self._share(self._line[0], deadline):
                pass
        finally:
            if self._line and not self._turn_due:
                self.cut_short += 1
                self._turn_due = True
                self._loop.call_soon(self._turn)

    def _share(self, reader: Readable, deadline: float) -> bool:
        """Read one socket's share; False when the time is up."""
        for _ in range(_SHARE):
            if not reader.read_one():
                self._done(reader)
                return True
            self.handled += 1
            if self._clock() >= deadline:
                self._line.rotate(-1)
                return False
            if reader not in self._in_line:
                return True
        self._line.rotate(-1)
        return True

    def _done(self, reader: Readable) -> None:
        if reader in self._in_line:
            self._in_line.remove(reader)
            self._line.remove(reader)
