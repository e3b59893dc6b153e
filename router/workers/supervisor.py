"""Starts the workers, starts anew those that die, passes on what they tell each other, and ends them together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time

import msgspec

from kvroute import __version__
from kvroute.router.config import Config
from kvroute.router.control.admin import ControlServer
from kvroute.router.control.gathered import Gathered
from kvroute.router.control.logs import set_up_logs
from kvroute.router.errors import KvrouteError
from kvroute.router.workers.child import Child
from kvroute.router.workers.messages import Drained, Refused, Said, Stored, Task, Up
from kvroute.router.workers.orphans import reap_orphans
from kvroute.router.workers.port import ReservedPort

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""A worker that does not listen by then is ended, and counts as one that died at its start."""
FAILED_STARTS = 3
"""So many in a row, while no worker serves, end the supervisor."""
FIRST_WAIT = 0.1
"""Before a worker that died is started anew [seconds]; doubles with each early death."""
LONGEST_WAIT = 10.0
STEADY_SECONDS = 10.0
"""A worker that served so long did not die early."""
SPARE_SECONDS = 5.0
"""How much longer than a drain may take a worker has for its end."""


class WorkersFailed(KvrouteError):
    """No worker can be had."""


class Slot:
    """One worker's place: the process that fills it now, and what became of those before."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.child: Child | None = None
        self.address: str | None = None
        """Base URL of its control plane while it serves."""
        self.starts = 0
        self.early_deaths = 0
        """In a row."""
        self.failed_starts = 0
        """In a row."""


class Supervisor:
    """Implements the control plane's Workers over `config.workers` processes."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._slots = [Slot(index) for index in range(config.workers)]
        self._drained: set[str] = set()
        self._gathered = ""
        self._port = 0
        self._stop = asyncio.Event()
        self._fault: str | None = None
        self._served = False

    # --- what the control plane asks ---

    @property
    def addresses(self) -> dict[int, str | None]:
        """See `Workers`."""
        return {slot.index: slot.address for slot in self._slots}

    @property
    def restarts(self) -> dict[int, int]:
        """See `Workers`."""
        return {slot.index: max(0, slot.starts - 1) for slot in self._slots}

    def drained(self, name: str, drained: bool) -> None:
        """See `Workers`."""
        (self._drained.add if drained else self._drained.discard)(name)

    # --- the life of the whole ---

    async def run(self) -> None:
        """Serve until told to stop.

        Raises:
            OSError: an address cannot be had.
            WorkersFailed: the workers cannot start, or die at their start again and again.
        """
        listen = self._config.listen
        with contextlib.closing(ReservedPort(listen.host, listen.port)) as reserved:
            self._port = reserved.port
            control = ControlServer(Gathered(self).application(), listen.control_host, listen.control_port)
            try:
                port = await control.start()
                self._gathered = f"http://{_reached_at(listen.control_host)}:{port}"
                where = f"{listen.host}:{self._port}, control on {listen.control_host}:{port}"
                log.info("kvroute %s starts %d workers on %s", __version__, len(self._slots), where)
                await asyncio.gather(*(self._keep(slot) for slot in self._slots))
            finally:
                self.kill()
                await control.close()
        if self._fault is not None:
            raise WorkersFailed(self._fault)
        log.info("ended")

    def stop(self) -> None:
        """Have all workers finish what is under way and end."""
        children = self._children()
        log.info("draining %d workers", len(children))
        self._stop.set()
        for child in children:
            child.terminate()
        asyncio.get_running_loop().call_later(self._config.limits.drain_seconds + SPARE_SECONDS, self.kill)

    @property
    def stopping(self) -> bool:
        """`stop` was called, or there is no use in going on."""
        return self._stop.is_set()

    def kill(self) -> None:
        """End all workers at once."""
        for child in self._children():
            child.kill()

    def pids(self) -> set[int]:
        """The workers' process ids."""
        return {child.pid for child in self._children()}

    def _children(self) -> list[Child]:
        return [slot.child for slot in self._slots if slot.child is not None]

    # --- one worker ---

    async def _keep(self, slot: Slot) -> None:
        """Keep one place filled until told to stop."""
        while not self.stopping:
            began = time.monotonic()
            status = await self._fill(slot)
            if self.stopping:
                break
            slot.early_deaths = slot.early_deaths + 1 if time.monotonic() - began < STEADY_SECONDS else 1
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (slot.early_deaths - 1))
            log.error("worker %d %s; started anew in %.1f s", slot.index, _told(status), wait)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait)

    async def _fill(self, slot: Slot) -> int:
        """One process from its start to its end: its exit status."""
        task = self._task(slot)
        child = slot.child = await Child.start(task)
        slot.starts += 1
        if self.stopping:
            child.terminate()
        first = await self._first_word(slot, child)
        if isinstance(first, Up):
            await self._hear_out(slot, child, task, first)
        status = await child.ended(SPARE_SECONDS)
        slot.child = None
        if not isinstance(first, Up) and not self.stopping:
            died = f"worker {slot.index} {_told(status)} before it served"
            told = isinstance(first, Refused)
            self._failed_to_start(slot, first.message if isinstance(first, Refused) else died, told=told)
        return status

    async def _first_word(self, slot: Slot, child: Child) -> Said | None:
        try:
            async with asyncio.timeout(START_SECONDS):
                return await child.hear()
        except TimeoutError:
            log.error("worker %d does not serve %g s after its start, and is ended", slot.index, START_SECONDS)
            child.kill()
            return None

    async def _hear_out(self, slot: Slot, child: Child, task: Task, up: Up) -> None:
        """From its first request to its last."""
        for name in self._drained.symmetric_difference(task.drained):
            child.write(Drained(name, name in self._drained))
        slot.address = f"http://127.0.0.1:{up.control_port}"
        slot.failed_starts = 0
        self._served = True
        log.info("worker %d serves (process %d)", slot.index, child.pid)
        while (said := await child.hear()) is not None:
            if isinstance(said, Stored):
                self._pass_on(said, child)
        slot.address = None

    def _failed_to_start(self, slot: Slot, message: str, *, told: bool) -> None:
        """Give up where nobody serves, and this fault was `told` by the first workers or comes back each time."""
        slot.failed_starts += 1
        if any(other.address for other in self._slots):
            log.error("%s", message)
        elif (told and not self._served) or slot.failed_starts >= FAILED_STARTS:
            self._fault = message
            self._stop.set()
            self.kill()

    def _task(self, slot: Slot) -> Task:
        config = self._config
        return Task(
            index=slot.index,
            # Workers that draw the same dice, or scrape at the same moments, would herd.
            config=msgspec.structs.replace(config, seed=config.seed + slot.index),
            listen=msgspec.structs.replace(config.listen, port=self._port, control_host="127.0.0.1", control_port=0),
            gathered=self._gathered,
            others_serve=any(other.address for other in self._slots),
            drained=tuple(sorted(self._drained)),
        )

    def _pass_on(self, stored: Stored, teller: Child) -> None:
        for slot in self._slots:
            if slot.child is not None and slot.child is not teller:
                slot.child.write(stored)


def supervise(config: Config) -> None:
    """Run `config.workers` router processes until told to stop: the first SIGTERM or SIGINT drains, the second ends.

    Raises:
        KvrouteError, OSError: they cannot start.
    """
    set_up_logs(config.logging.level, config.logging.format)
    asyncio.run(_supervise(Supervisor(config)))


async def _supervise(supervisor: Supervisor) -> None:
    def told() -> None:
        if supervisor.stopping:
            log.warning("told twice: ending at once")
            supervisor.kill()
            os._exit(130)
        supervisor.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    reap_orphans(supervisor.pids)
    await supervisor.run()


def _told(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"


def _reached_at(host: str) -> str:
    """How this machine reaches what listens on `host`, as part of a URL."""
    if host in ("", "0.0.0.0", "::"):
        return "127.0.0.1" if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host
