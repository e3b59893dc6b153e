"""Starts the workers, starts anew those that die, passes on what they tell each other, and ends them together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import msgspec

from kvroute import __version__
from kvroute.router.config import Config
from kvroute.router.control.admin import ControlServer
from kvroute.router.control.gathered import Gathered
from kvroute.router.control.logs import set_up_logs
from kvroute.router.errors import KvrouteError
from kvroute.router.workers.child import Child
from kvroute.router.workers.messages import Drained, Said, Task
from kvroute.router.workers.orphans import reap_orphans
from kvroute.router.workers.place import Place
from kvroute.router.workers.port import ReservedPort

log = logging.getLogger(__name__)

FAILED_STARTS = 3
"""So many in a row, while no worker serves, end the supervisor."""
SPARE_SECONDS = 5.0
"""How much longer than a drain may take the workers have for their end."""


class WorkersFailed(KvrouteError):
    """No worker can be had."""


class Supervisor:
    """The control plane's Workers and the places' Fleet, over `config.workers` processes."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._places = [Place(index, self) for index in range(config.workers)]
        self._drained: set[str] = set()
        self._gathered = ""
        self._port = 0
        self._reserved: ReservedPort | None = None
        self._stop = asyncio.Event()
        self._fault: str | None = None
        self._served = False

    # --- what the control plane asks ---

    @property
    def addresses(self) -> dict[int, str | None]:
        """See `Workers`."""
        return {place.index: place.address for place in self._places}

    @property
    def restarts(self) -> dict[int, int]:
        """See `Workers`."""
        return {place.index: max(0, place.starts - 1) for place in self._places}

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
        with ReservedPort(listen.host, listen.port) as reserved:
            self._port, self._reserved = reserved.port, reserved
            control = ControlServer(Gathered(self).application(), listen.control_host, listen.control_port)
            try:
                port = await control.start()
                self._gathered = f"http://{_reached_at(listen.control_host)}:{port}"
                where = f"{listen.host}:{self._port}, control on {listen.control_host}:{port}"
                log.info("kvroute %s starts %d workers on %s", __version__, len(self._places), where)
                await asyncio.gather(*(place.keep(self._stop) for place in self._places))
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
        if self._reserved is not None:
            self._reserved.close()  # whoever comes after this router may listen while its last streams end
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
        return [place.child for place in self._places if place.child is not None]

    # --- what a place asks and tells ---

    def task(self, index: int) -> Task:
        """See `Fleet`."""
        config = self._config
        return Task(
            index=index,
            # Workers that drew the same dice, or scraped at the same moments, would herd.
            config=msgspec.structs.replace(config, seed=config.seed + index),
            listen=msgspec.structs.replace(config.listen, port=self._port, control_host="127.0.0.1", control_port=0),
            gathered=self._gathered,
            others_serve=self._serving,
            drained=tuple(sorted(self._drained)),
        )

    def up(self, child: Child, task: Task) -> None:
        """See `Fleet`."""
        self._served = True
        for name in self._drained.symmetric_difference(task.drained):
            child.write(Drained(name, name in self._drained))

    def heard(self, said: Said, teller: Child) -> None:
        """See `Fleet`."""
        for child in self._children():
            if child is not teller:
                child.write(said)

    def failed(self, place: Place, message: str, *, told: bool) -> None:
        """Give up where nobody serves, and this fault was told by the first workers or comes back each time."""
        if not self._serving and ((told and not self._served) or place.failed_starts >= FAILED_STARTS):
            self._fault = message
            self._stop.set()
            self.kill()
        else:
            log.error("%s", message)

    @property
    def _serving(self) -> bool:
        return any(place.address for place in self._places)


def supervise(config: Config) -> None:
    """Run `config.workers` router processes until told to stop: the first SIGTERM or SIGINT drains, the second ends.

    Raises:
        KvrouteError, OSError: they cannot start.
    """
    set_up_logs(config.logging.level, config.logging.format)
    if not sys.platform.startswith("linux"):
        log.warning("this system does not spread connections over processes that share a port: one worker may get all")
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


def _reached_at(host: str) -> str:
    """How this machine reaches what listens on `host`, as part of a URL."""
    if host in ("", "0.0.0.0", "::"):
        return "127.0.0.1" if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host
