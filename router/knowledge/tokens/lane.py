"""A few threads that serve jobs in turn, and how long a job would wait for them.

All but the work itself runs on the loop, so that nothing needs a lock. The threads are daemons: one that is stuck in a
library holds up neither the loop nor the process' end.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

SLACK = 0.25
"""Seconds that a job may take beyond what is predicted: of a busy machine, and of other threads' turns."""
PATIENCE = 2.0
"""And times the prediction."""
BACKGROUND_SECONDS = 5.0
"""Work that nobody waits for is kept up to this much; it is done where nothing else is to do."""

_PRIOR_RATE = 2e6
"""Characters per second of one thread before anything is known; a byte-level tokenizer encodes 2 to 5 million."""
_FADE = 0.9
_TELLING = 2048
"""Jobs of fewer characters tell more about the thread than about its work."""


def patience(seconds: float) -> float:
    """How long somebody waits for what is predicted to take so many seconds [seconds]."""
    return PATIENCE * max(0.0, seconds) + SLACK


class Job(Generic[T]):
    """Work for one thread."""

    __slots__ = ("background", "begun", "due", "future", "size", "work")

    def __init__(self, work: Callable[[], T], size: float, due: float, background: bool, future: asyncio.Future[T]):
        self.work = work
        self.size = size
        """Characters, or whatever the lane's rate counts."""
        self.due = due
        """When it should be done, as predicted; on `time.monotonic`."""
        self.background = background
        """Nobody waits for it."""
        self.future = future
        self.begun: float | None = None
        """When a thread took it."""


class Lane:
    """Made and used on one event loop."""

    def __init__(self, name: str, workers: int, rate: float | None = None) -> None:
        """`rate`: what a thread does in a second, where that is known; else it is learned."""
        self._name = name
        self._learns = rate is None
        self._queue: queue.PriorityQueue[tuple[int, int, Job[Any] | None]] = queue.PriorityQueue()
        self._taken: list[Job[Any] | None] = [None] * workers
        self._started = False
        self._count = 0
        self._open: set[Job[Any]] = set()
        self.ahead: float = 0
        """Sizes of what somebody waits for."""
        self.behind: float = 0
        """And of what nobody waits for."""
        self.rate = _PRIOR_RATE if rate is None else rate
        """Characters (or whatever sizes are) per second of one thread, by the clock on the wall."""

    def predicted(self, size: float, now: float) -> float:
        """Seconds until a further job of this size would be done; infinite where every thread is stuck."""
        free, ahead = len(self._taken), self.ahead
        for job in self._taken:
            if job is None or job.begun is None:
                continue
            if self.overdue(job, now):
                free -= 1
                ahead -= 0 if job.background else job.size
            elif job.background:
                ahead += job.size
        return (ahead / free + size) / self.rate if free else math.inf

    def overdue(self, job: Job[Any], now: float) -> bool:
        """A thread has been at it for far longer than predicted."""
        return job.begun is not None and now - job.begun > patience(job.size / self.rate)

    def has_room_behind(self, size: float) -> bool:
        """Whether a job of this size may be done when nothing else is to do."""
        return self.behind + size <= self.rate * BACKGROUND_SECONDS

    async def done(self, work: Callable[[], T], size: float, until: float) -> T | None:
        """What `work` gives; None: that would take too long, or takes far longer than predicted."""
        now = time.monotonic()
        seconds = self.predicted(size, now)
        if now + seconds > until:
            return None
        future = self.put(work, size, now + seconds).future
        await asyncio.wait({future}, timeout=min(until - now, patience(seconds)))
        return future.result() if future.done() and not future.cancelled() else None

    def put(self, work: Callable[[], T], size: float, due: float, *, background: bool = False) -> Job[T]:
        """Have `work` done by a thread, behind what was put before. Its future may be looked at, never cancelled."""
        loop = asyncio.get_running_loop()
        if not self._started:
            self._start()
        job = Job(work, size, due, background, loop.create_future())
        self._open.add(job)
        self._account(job, size)
        self._count += 1
        self._queue.put((int(background), self._count, job))
        return job

    def close(self) -> None:
        """Let the threads end; what they have not begun is dropped."""
        for job in self._open:
            job.future.cancel()
        self._open.clear()
        for slot in range(len(self._taken)):
            self._queue.put((-1, slot, None))

    def _start(self) -> None:
        self._started = True
        for slot in range(len(self._taken)):
            threading.Thread(target=self._serve, args=(slot,), name=f"{self._name}-{slot}", daemon=True).start()

    def _serve(self, slot: int) -> None:
        """In a thread: one job after the other."""
        while (job := self._queue.get()[2]) is not None:
            future = job.future
            if future.cancelled():
                continue
            job.begun = time.monotonic()
            self._taken[slot] = job
            result, error = None, None
            try:
                result = job.work()
            except Exception as raised:  # noqa: BLE001  it is handed to who waits
                error = raised
            seconds = time.monotonic() - job.begun
            self._taken[slot] = None
            try:
                future.get_loop().call_soon_threadsafe(self._done, job, seconds, result, error)
            except RuntimeError:  # the loop is closed
                return
            del job, future, result, error

    def _done(self, job: Job[Any], seconds: float, result: Any, error: Exception | None) -> None:
        self._open.discard(job)
        self._account(job, -job.size)
        if self._learns and job.size >= _TELLING and seconds > 0:
            self.rate = _FADE * self.rate + (1 - _FADE) * job.size / seconds
        if job.future.done():
            return
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)
            job.future.exception()  # it may be that nobody waits any more

    def _account(self, job: Job[Any], size: float) -> None:
        if job.background:
            self.behind += size
        else:
            self.ahead += size
