"""Reads every engine's `/metrics` at an interval; a slow or dead engine delays nobody else."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Annotated, Protocol

import msgspec

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.dataplane.limits import Seconds
from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.fleetwatch.engine_client import EngineClient, Unreachable
from kvroute.router.fleetwatch.exposition import Reading, parse_metrics, restarted

log = logging.getLogger(__name__)


class ScrapeSink(Protocol):
    """Who wants to know. Called on the event loop; must not block."""

    def scraped(self, endpoint: Endpoint, readings: list[Reading], now: float) -> None:
        """Fresh readings, one per rank."""
        ...

    def restarted(self, endpoint: Endpoint, now: float) -> None:
        """The engine's totals ran backwards or its start time changed: its cache is gone. Precedes `scraped`."""
        ...


class ScrapeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times in seconds."""

    interval: Seconds = 1.0
    """Time between reads of one engine's `/metrics`."""
    timeout: Seconds = 2.0
    """Longest wait for a page."""
    slowest: Seconds = 15.0
    """Longest wait between tries at an engine whose `/metrics` fails."""
    per_second: Annotated[float, msgspec.Meta(gt=0)] = 100.0
    """Scrapes a second over the whole fleet: a large fleet is read less often rather than at any cost."""


class _Scraped:
    """One endpoint under watch."""

    __slots__ = ("failures", "readings", "task")

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.failures = 0
        self.task: asyncio.Task[None] | None = None


class Scraper:
    """Scrapes endpoints from `add` until `remove` or `close`."""

    def __init__(
        self,
        client: EngineClient,
        sink: ScrapeSink,
        settings: ScrapeSettings = ScrapeSettings(),  # noqa: B008 - frozen
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._sink = sink
        self._settings = settings
        self._rng = rng or random.Random()
        self._clock = clock
        self._watched: dict[Endpoint, _Scraped] = {}
        self._turn = asyncio.Lock()
        """One page is read per turn of the event loop: 50 that arrive together must not hold up requests."""

    def add(self, endpoint: Endpoint) -> None:
        """Start scraping; the first scrape comes after one interval. Adding twice does nothing."""
        watched = self._known(endpoint)
        if watched.task is None:
            watched.task = run_in_background(self._loop(endpoint, watched), f"scrape {endpoint.name}")

    def pause(self, endpoint: Endpoint) -> None:
        """Stop scraping until the next `add`, and keep the last readings to tell a restart by."""
        watched = self._watched.get(endpoint)
        if watched is not None and watched.task is not None:
            watched.task.cancel()
            watched.task = None

    def remove(self, endpoint: Endpoint) -> None:
        """Stop scraping and forget the last readings."""
        self.pause(endpoint)
        self._watched.pop(endpoint, None)

    def last(self, endpoint: Endpoint) -> list[Reading]:
        """The newest readings, empty before the first."""
        watched = self._watched.get(endpoint)
        return watched.readings if watched else []

    async def scrape_now(self, endpoint: Endpoint) -> tuple[list[Reading], bool]:
        """Readings (empty when `/metrics` does not answer) and whether the engine restarted since the last ones.

        Unlike the loop this tells the caller instead of the sink, so that a replica can join with its readings.
        """
        watched = self._known(endpoint)
        try:
            readings = await self._read(endpoint)
        except Unreachable as error:
            log.debug("%s: /metrics: %s", endpoint.name, error)
            return [], False
        began_again = restarted(watched.readings, readings)
        watched.readings = readings
        watched.failures = 0
        return readings, began_again

    async def close(self) -> None:
        """Stop everything and wait until it has stopped. The client stays open: it belongs to the caller."""
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        self._watched.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _known(self, endpoint: Endpoint) -> _Scraped:
        return self._watched.setdefault(endpoint, _Scraped())

    async def _loop(self, endpoint: Endpoint, watched: _Scraped) -> None:
        while True:
            await asyncio.sleep(self._delay(watched.failures))
            try:
                readings = await self._read(endpoint)
            except Unreachable as error:
                watched.failures += 1
                if watched.failures == 1:
                    log.warning("%s: /metrics: %s", endpoint.name, error)
                continue
            watched.failures = 0
            now = self._clock()
            if restarted(watched.readings, readings):
                log.warning("%s: the engine restarted", endpoint.name)
                self._sink.restarted(endpoint, now)
            watched.readings = readings
            self._sink.scraped(endpoint, readings, now)

    async def _read(self, endpoint: Endpoint) -> list[Reading]:
        status, body = await self._client.get(endpoint, "/metrics", self._settings.timeout)
        if status != 200:
            raise Unreachable(f"answered {status}")
        async with self._turn:
            readings = parse_metrics(body)
            await asyncio.sleep(0)
        if not readings:
            raise Unreachable("answered no vllm: metrics")
        return readings

    def _delay(self, failures: int) -> float:
        """Seconds until the next scrape, spread by 10 % so that engines are not read in step."""
        interval = max(self._settings.interval, len(self._watched) / self._settings.per_second)
        if failures:
            interval = max(interval, min(self._settings.slowest, interval * 2.0 ** min(failures, 10)))
        return interval * self._rng.uniform(0.9, 1.1)
