"""The life of each engine as the fleet sees it: not up yet, joined, ejected, recovered (perhaps restarted), gone."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.dataplane.limits import Seconds
from kvroute.router.fleetwatch.backend import Backend
from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.fleetwatch.engine_client import EngineClient, Unreachable
from kvroute.router.fleetwatch.exposition import Reading
from kvroute.router.fleetwatch.health import Health, HealthSettings
from kvroute.router.fleetwatch.models import Served, discover
from kvroute.router.fleetwatch.scrape import Scraper, ScrapeSettings, ScrapeSink

log = logging.getLogger(__name__)


class FleetListener(ScrapeSink, Protocol):
    """Who keeps the fleet. Called on the event loop; must not block.

    Per endpoint the order is `joined (ejected recovered)* gone`; `serving`, `restarted` and `scraped` come in between.
    """

    def joined(self, backend: Backend, served: Served, readings: list[Reading], now: float) -> None:
        """An engine answers for the first time. `readings`: one per data-parallel rank, empty without `/metrics`."""
        ...

    def ejected(self, endpoint: Endpoint, reason: str, now: float) -> None:
        """It stopped to answer: no new requests."""
        ...

    def recovered(
        self, endpoint: Endpoint, served: Served, readings: list[Reading], restarted: bool, now: float
    ) -> None:
        """It answers again. `restarted`: its cache is gone."""
        ...

    def serving(self, endpoint: Endpoint, served: Served, now: float) -> None:
        """What it serves has changed, for example by an adapter that was loaded."""
        ...

    def gone(self, endpoint: Endpoint, now: float) -> None:
        """It is no longer listed: let what runs there finish, send nothing new."""
        ...


class WatchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times in seconds."""

    health: HealthSettings = HealthSettings()
    scrape: ScrapeSettings = ScrapeSettings()
    discover_every: Seconds = 30.0
    """Time between looks at `/v1/models` of an engine that serves."""
    discover_timeout: Seconds = 5.0
    """Longest wait for `/v1/models`."""
    discover_retry: Seconds = 0.25
    """First wait after `/v1/models` failed at an engine whose `/health` is good; doubles up to 5 s."""


class _Member:
    """One listed engine."""

    __slots__ = ("backend", "joined", "obstacle", "process_lost", "served", "task", "up")

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.served: Served | None = None
        self.joined = False
        self.up = False
        """The listener believes that it answers."""
        self.process_lost = False
        """Nobody listened there since it was up: without other evidence it has restarted."""
        self.obstacle = "not asked for its models yet"
        """Why it cannot join although its health is good."""
        self.task: asyncio.Task[None] | None = None


class Watch:
    """Runs health checks, discovery and scraping for a list of backends and tells a listener what comes of it."""

    def __init__(
        self,
        client: EngineClient,
        listener: FleetListener,
        settings: WatchSettings = WatchSettings(),  # noqa: B008 - frozen
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._listener = listener
        self._settings = settings
        self._rng = rng or random.Random()
        self._clock = clock
        self._members: dict[Endpoint, _Member] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.scraper = Scraper(client, listener, settings.scrape, rng=self._rng, clock=clock)
        self.health = Health(client, self._on_health, settings.health, rng=self._rng, clock=clock)

    def set_backends(self, backends: Iterable[Backend]) -> None:
        """The whole list as it is now: new ones are watched, missing ones are gone, changed ones leave and join."""
        wanted = {backend.endpoint: backend for backend in backends}
        for endpoint, member in list(self._members.items()):
            if wanted.get(endpoint) != member.backend:
                self._drop(endpoint, member)
        for endpoint, backend in wanted.items():
            if endpoint not in self._members:
                self._members[endpoint] = _Member(backend)
                self.health.add(endpoint)

    def report_failure(self, endpoint: Endpoint, now: float) -> None:
        """See `Health.report_failure`."""
        self.health.report_failure(endpoint, now)

    def suspect(self, endpoint: Endpoint) -> None:
        """See `Health.suspect`."""
        self.health.suspect(endpoint)

    def report_success(self, endpoint: Endpoint) -> None:
        """See `Health.report_success`."""
        self.health.report_success(endpoint)

    def missing(self) -> list[tuple[Backend, str]]:
        """Backends that do not serve at this moment, each with the reason."""
        return [
            (member.backend, member.obstacle if self.health.healthy(endpoint) else self.health.state(endpoint)[1])
            for endpoint, member in self._members.items()
            if not member.up
        ]

    async def close(self) -> None:
        """Stop everything and wait until it has stopped; nothing is told any more. The client stays open."""
        tasks = [member.task for member in self._members.values() if member.task is not None]
        self._members.clear()
        tasks.extend(self._ending)
        for task in tasks:
            task.cancel()
        await asyncio.gather(self.health.close(), self.scraper.close(), *tasks, return_exceptions=True)

    def _drop(self, endpoint: Endpoint, member: _Member) -> None:
        del self._members[endpoint]
        self.health.remove(endpoint)
        self.scraper.remove(endpoint)
        self._stop(member)
        if member.joined:
            self._listener.gone(endpoint, self._clock())

    def _stop(self, member: _Member) -> None:
        if member.task is not None:
            self._ending.add(member.task)
            member.task.add_done_callback(self._ending.discard)
            member.task.cancel()
            member.task = None

    def _on_health(self, endpoint: Endpoint, healthy: bool, reason: str) -> None:
        member = self._members.get(endpoint)
        if member is None:
            return
        self._stop(member)
        self.scraper.pause(endpoint)  # so that a restart is found on recovery, and told with it
        if healthy:
            member.task = run_in_background(self._serve(endpoint, member), f"watch {endpoint.name}")
        elif member.up:
            member.up = False
            member.process_lost = True
            log.warning("%s ejected: %s", endpoint.name, reason)
            self._listener.ejected(endpoint, reason, self._clock())

    async def _serve(self, endpoint: Endpoint, member: _Member) -> None:
        """From the first good health check to the first bad one (which cancels this task)."""
        served = await self._discover_first(endpoint, member)
        readings, restarted = await self.scraper.scrape_now(endpoint)
        self._admit(endpoint, member, served, readings, restarted)
        self.scraper.add(endpoint)
        while True:
            await asyncio.sleep(self._settings.discover_every * self._rng.uniform(0.9, 1.1))
            try:
                served = await self._discover(endpoint, member)
            except Unreachable as error:
                log.debug("%s: %s", endpoint.name, error)
                continue
            if member.served is None or not served.same_as(member.served):
                member.served = served
                self._listener.serving(endpoint, served, self._clock())

    def _admit(
        self, endpoint: Endpoint, member: _Member, served: Served, readings: list[Reading], restarted: bool
    ) -> None:
        now = self._clock()
        member.served, member.up = served, True
        if not member.joined:
            member.joined = True
            log.info("%s joined: serves %s", endpoint.name, ", ".join((*served.models, *served.adapters)) or "nothing")
            self._listener.joined(member.backend, served, readings, now)
        else:
            # Without start times or totals to compare, an engine that nobody could reach counts as restarted.
            restarted = restarted or (member.process_lost and not readings)
            log.info("%s recovered%s", endpoint.name, " (restarted)" if restarted else "")
            self._listener.recovered(endpoint, served, readings, restarted, now)
        member.process_lost = False

    async def _discover_first(self, endpoint: Endpoint, member: _Member) -> Served:
        wait = self._settings.discover_retry
        complained = False
        while True:
            try:
                return await self._discover(endpoint, member)
            except Unreachable as error:
                member.obstacle = str(error)
                if not complained:
                    log.warning("%s cannot join yet: %s", endpoint.name, error)
                    complained = True
            await asyncio.sleep(wait)
            wait = min(5.0, 2.0 * wait)

    async def _discover(self, endpoint: Endpoint, member: _Member) -> Served:
        models = member.backend.models
        try:
            served = await discover(self._client, endpoint, self._settings.discover_timeout)
        except Unreachable:
            # An operator who names the models may have an engine that does not list them.
            if models and self.health.healthy(endpoint):
                return Served(models)
            raise
        return served.only(models)
