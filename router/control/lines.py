"""Lines that wait to be appended to a file: made into text and written in batches beside the requests, or dropped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import msgspec

from kvroute.router.control.appended import Appended
from kvroute.router.control.logs import SeldomLog
from kvroute.router.control.series import LineCounts
from kvroute.router.core.decided import Decided, Line, Shortened

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.25
"""How long lines wait for others to be written with."""
RETRY_SECONDS = 1.0
"""After a failure."""
LAST_SECONDS = 5.0
"""How long the last lines may take to be written when the router ends."""
MOST_LINES = 16_384
MOST_KEYS = 1_000_000
"""What may wait to be written; a key takes some 40 bytes."""
SLICE = 32
"""Lines made at once, in well under a millisecond; then the event loop runs."""
BATCH_BYTES = 1 << 20
_LARGEST = 1 << 63
P = ParamSpec("P")
T = TypeVar("T")


class Lines:
    """What waits for one file. `put` returns at once, whatever the disk does."""

    def __init__(self, path: str, beginning: Callable[[], Iterable[Line]], clock: Callable[[], float]) -> None:
        """`beginning` gives the first lines of a file, each time that one is begun."""
        self.counts = LineCounts()
        self._file = Appended(path)
        self._beginning = beginning
        self._waiting: deque[Line] = deque()
        self._waiting_keys = 0
        self._news = asyncio.Event()
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._shortened = Shortened()
        self._encoder = msgspec.json.Encoder()
        self._seldom = SeldomLog(log, clock=clock)

    @property
    def path(self) -> str:
        """Where they are written."""
        return self._file.path

    def check(self) -> None:
        """See that the file can be had.

        Raises:
            OSError: it cannot.
        """
        self._file.open()
        self._file.close()

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Write what waits, as far as that takes no longer than `LAST_SECONDS`."""
        self._ending.set()
        self._news.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=LAST_SECONDS)
            if self._waiting:
                log.warning("%s: the last %d lines were not written in time", self.path, len(self._waiting))
            if self._task.done():
                self._file.close()
            self._task.cancel()

    def put(self, line: Line) -> None:
        """Have it written, if it can be. From here on it is not the caller's to change."""
        keys = len(line.keys) if isinstance(line, Decided) else 0
        if len(self._waiting) >= MOST_LINES or self._waiting_keys + keys > MOST_KEYS:
            self.counts.dropped += 1
            self._seldom.warning("full", "%s cannot be written fast enough: lines are dropped", self.path)
            return
        self._waiting.append(line)
        self._waiting_keys += keys
        self._news.set()

    async def _write(self) -> None:
        last = False
        while not last:
            await self._news.wait()
            self._news.clear()
            await self._pause(FLUSH_SECONDS)
            last = self._ending.is_set()
            try:
                await self._flush()
            except OSError as error:
                self._seldom.error("fails", "%s cannot be written: %s", self.path, error.strerror or error)
                self._news.set()
                await self._pause(RETRY_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Or until the router ends."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    async def _flush(self) -> None:
        while self._waiting:
            pieces: list[bytes] = []
            if await _beside(self._file.open):
                self._shortened.clear()
                pieces += filter(None, map(self._text, self._beginning()))
            lines = await self._made(pieces)
            try:
                await _beside(self._file.append, b"".join(pieces))
            except OSError:
                # What rests on these lines could not be read.
                self._shortened.clear()
                self._file.close()
                self.counts.dropped += lines
                raise
            self.counts.written += lines

    async def _made(self, pieces: list[bytes]) -> int:
        """Turn waiting lines into text, a batch at most: how many."""
        waiting, lines, size = self._waiting, 0, 0
        while waiting and size < BATCH_BYTES:
            for _ in range(min(SLICE, len(waiting))):
                line = waiting.popleft()
                if isinstance(line, Decided):
                    self._waiting_keys -= len(line.keys)
                    self._shortened.shorten(line)
                text = self._text(line)
                if text is not None:
                    pieces.append(text)
                    size += len(text)
                    lines += 1
            await asyncio.sleep(0)
        return lines

    def _text(self, line: Line) -> bytes | None:
        """The line as it is written; None, counted, where that cannot be."""
        try:
            return self._encoder.encode(line) + b"\n"
        except ValueError:  # clients choose names and numbers
            pass
        try:
            return self._encoder.encode(_sane(line)) + b"\n"
        except ValueError as error:
            self._shortened.clear()
            self.counts.dropped += 1
            self._seldom.warning("odd", "%s: a line that cannot be written: %s", self.path, error)
            return None


async def _beside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what may block in a thread of its own, that a router which ends need not wait for: a disk may hang."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work(*args, **kwargs)
        except OSError as error:
            tell(done.set_exception, error)
        else:
            tell(done.set_result, result)

    def tell(end: Callable[[Any], None], what: object) -> None:
        with contextlib.suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            loop.call_soon_threadsafe(lambda: None if done.cancelled() else end(what))

    threading.Thread(target=run, name="decision log", daemon=True).start()
    return await done


def _sane(line: Line) -> Line:
    """The line with what JSON cannot hold replaced: lone surrogates, and numbers beyond 64 bits."""
    for name in line.__struct_fields__:
        value = getattr(line, name)
        if isinstance(value, str):
            setattr(line, name, value.encode("utf-8", "replace").decode())
        elif type(value) is int and name != "anchor":
            setattr(line, name, max(-_LARGEST, min(value, _LARGEST - 1)))
    return line
