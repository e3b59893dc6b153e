"""One worker's place: filled by one process after the other until all is to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from typing import Protocol

import aiohttp

from kvroute.router.workers.child import Child
from kvroute.router.workers.messages import Refused, Said, Task, Up

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""A worker that does not serve by then is ended, and counts as one that died at its start."""
FIRST_WAIT = 0.1
"""Before a worker that died is started anew [seconds]; doubles with each early death."""
LONGEST_WAIT = 10.0
STEADY_SECONDS = 10.0
"""A worker that lived so long did not die early."""
SPARE_SECONDS = 5.0
"""How long a worker that has said its last may take to end."""
LOOK_EVERY = 5.0
"""Between looks at a worker's health [seconds]."""
SILENT_SECONDS = 30.0
"""A worker that answers no health check for so long hangs: its share of the connections would hang with it."""


class Fleet(Protocol):
    """The other places, and what is known to all."""

    def task(self, index: int) -> Task:
        """What the next process there shall do."""
        ...

    def up(self, child: Child, task: Task) -> None:
        """It serves from now on."""
        ...

    def heard(self, said: Said, teller: Child) -> None:
        """A worker has something to tell the others."""
        ...

    def failed(self, place: Place, message: str, *, told: bool) -> None:
        """A worker did not come to serve: it told why, or died."""
        ...


class Place:
    """Starts a process, listens to it, watches its health, and starts the next one when it has ended."""

    def __init__(self, index: int, fleet: Fleet) -> None:
        self.index = index
        self.child: Child | None = None
        self.address: str | None = None
        """Base URL of its control plane while it serves."""
        self.starts = 0
        self.failed_starts = 0
        """In a row."""
        self._fleet = fleet
        self._early_deaths = 0

    async def keep(self, stop: asyncio.Event) -> None:
        """Returns when the process that was there when `stop` was set has ended."""
        while not stop.is_set():
            began = time.monotonic()
            end = await self._fill(stop)
            if stop.is_set():
                log.debug("worker %d %s", self.index, end)
                return
            self._early_deaths = self._early_deaths + 1 if time.monotonic() - began < STEADY_SECONDS else 1
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (self._early_deaths - 1))
            log.error("worker %d %s; started anew in %.1f s", self.index, end, wait)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait)

    async def _fill(self, stop: asyncio.Event) -> str:
        """One process from its start to its end: what became of it."""
        task = self._fleet.task(self.index)
        self.starts += 1
        try:
            child = self.child = await Child.start(task)
        except OSError as error:  # no memory or no processes left
            end = f"could not be started: {error}"
            self._failed(end)
            return end
        if stop.is_set():
            child.terminate()
        first = await self._first_word(child)
        if isinstance(first, Up):
            await self._serve(child, task, first)
        end = _told(await child.ended(SPARE_SECONDS))
        self.child = None
        if not isinstance(first, Up) and not stop.is_set():
            self._failed(f"{end} before it served", first)
        return end

    async def _first_word(self, child: Child) -> Said | None:
        try:
            async with asyncio.timeout(START_SECONDS):
                return await child.hear()
        except TimeoutError:
            log.error("worker %d does not serve %g s after its start, and is ended", self.index, START_SECONDS)
            child.kill()
            return None

    def _failed(self, end: str, said: Said | None = None) -> None:
        self.failed_starts += 1
        if isinstance(said, Refused):
            self._fleet.failed(self, said.message, told=True)
        else:
            self._fleet.failed(self, f"worker {self.index} {end}", told=False)

    async def _serve(self, child: Child, task: Task, up: Up) -> None:
        """From its first request to its last word."""
        self.failed_starts = 0
        self.address = f"http://127.0.0.1:{up.control_port}"
        log.info("worker %d serves (process %d)", self.index, child.pid)
        self._fleet.up(child, task)
        watching = asyncio.create_task(self._watch(child, f"{self.address}/health"))
        while (said := await child.hear()) is not None:
            self._fleet.heard(said, child)
        watching.cancel()
        self.address = None

    async def _watch(self, child: Child, url: str) -> None:
        """End it when it hangs."""
        answered = time.monotonic()
        limit = aiohttp.ClientTimeout(total=LOOK_EVERY)
        async with aiohttp.ClientSession(timeout=limit) as session:
            while time.monotonic() - answered < SILENT_SECONDS:
                await asyncio.sleep(LOOK_EVERY)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url):
                        answered = time.monotonic()
        log.error("worker %d hangs: no answer for %g s", self.index, SILENT_SECONDS)
        child.kill()


def _told(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"
