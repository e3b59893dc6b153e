"""Watches whether engines answer: active checks of `/health` around a `Breaker` that also hears of failed requests."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Annotated

import msgspec

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.dataplane.limits import Seconds
from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.fleetwatch.breaker import Breaker, Limits, State
from kvroute.router.fleetwatch.engine_client import EngineClient, Unreachable


class HealthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times in seconds."""

    interval: Seconds = 2.0
    """Time between checks of an endpoint that is well."""
    timeout: Seconds = 5.0
    """Generous: an engine that tokenises long prompts answers late, but is not dead."""
    path: Annotated[str, msgspec.Meta(pattern="^/[!-~]*$")] = "/health"
    """What is asked for; 200 means well."""
    per_second: Annotated[float, msgspec.Meta(gt=0)] = 50.0
    """Checks a second over the whole fleet; failed requests have an endpoint checked at once all the same."""
    limits: Limits = Limits()


class _Watched:
    """One endpoint under watch."""

    __slots__ = ("breaker", "look", "reason", "task")

    def __init__(self, limits: Limits) -> None:
        self.breaker = Breaker(limits)
        self.look = asyncio.Event()
        """Set to have it checked at once instead of after the interval."""
        self.reason = "has not answered yet"
        self.task: asyncio.Task[None] | None = None


class Health:
    """Tells `on_change(endpoint, healthy, reason)` when an endpoint starts, stops or resumes to answer.

    An endpoint is not healthy until its first check succeeded. `on_change` is called on the event loop, also from
    within `report_failure`, and must not block.
    """

    def __init__(
        self,
        client: EngineClient,
        on_change: Callable[[Endpoint, bool, str], None],
        settings: HealthSettings = HealthSettings(),  # noqa: B008 - frozen
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._on_change = on_change
        self._settings = settings
        self._rng = rng or random.Random()
        self._clock = clock
        self._watched: dict[Endpoint, _Watched] = {}

    def add(self, endpoint: Endpoint) -> None:
        """Start checking, at once. Adding twice does nothing."""
        if endpoint not in self._watched:
            watched = self._watched[endpoint] = _Watched(self._settings.limits)
            watched.task = run_in_background(self._loop(endpoint, watched), f"health {endpoint.name}")

    def remove(self, endpoint: Endpoint) -> None:
        """Stop checking; nothing more is told about it."""
        watched = self._watched.pop(endpoint, None)
        if watched is not None and watched.task is not None:
            watched.task.cancel()

    def healthy(self, endpoint: Endpoint) -> bool:
        watched = self._watched.get(endpoint)
        return watched is not None and watched.breaker.healthy

    def state(self, endpoint: Endpoint) -> tuple[State, str]:
        """Its state, and why it is in it. Raises KeyError for an endpoint that is not watched."""
        watched = self._watched[endpoint]
        return watched.breaker.state, watched.reason

    def report_failure(self, endpoint: Endpoint, now: float) -> None:
        """A request could not connect there. Counts towards ejection, and has the endpoint checked at once."""
        watched = self._watched.get(endpoint)
        if watched is None:
            return
        if watched.breaker.request_failed(now):
            self._tell(endpoint, watched, False, "requests could not connect")
        else:
            watched.look.set()

    def suspect(self, endpoint: Endpoint) -> None:
        """A connection broke half-way: no proof of anything, but worth a look at once."""
        watched = self._watched.get(endpoint)
        if watched is not None:
            watched.look.set()

    def report_success(self, endpoint: Endpoint) -> None:
        """A request got an answer there, whatever its status. Cheap: called for every request."""
        watched = self._watched.get(endpoint)
        if watched is not None:
            watched.breaker.request_succeeded()

    async def close(self) -> None:
        """Stop everything and wait until it has stopped. The client stays open: it belongs to the caller."""
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        self._watched.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _loop(self, endpoint: Endpoint, watched: _Watched) -> None:
        breaker = watched.breaker
        while True:
            breaker.begin_trial(self._clock())
            if breaker.state is not State.EJECTED:
                watched.look.clear()
                await self._check(endpoint, watched)
            await self._pause(watched)

    async def _check(self, endpoint: Endpoint, watched: _Watched) -> None:
        path = self._settings.path
        try:
            status, _ = await self._client.get(endpoint, path, self._settings.timeout)
        except Unreachable as error:
            self._failed(endpoint, watched, str(error), decisive=error.refused)
            return
        if status == 200:
            if watched.breaker.check_succeeded(self._clock()):
                self._tell(endpoint, watched, True, f"GET {path} answers 200")
        else:
            # vLLM answers 503 once its engine process is dead: waiting for more of them helps nobody.
            self._failed(endpoint, watched, f"GET {path} answered {status}", decisive=status == 503)

    def _failed(self, endpoint: Endpoint, watched: _Watched, reason: str, *, decisive: bool) -> None:
        if watched.breaker.check_failed(self._clock(), decisive):
            self._tell(endpoint, watched, False, reason)
        elif not watched.breaker.healthy:
            watched.reason = reason

    def _tell(self, endpoint: Endpoint, watched: _Watched, healthy: bool, reason: str) -> None:
        watched.reason = reason
        watched.look.set()  # the loop must wait by the new state's clock
        self._on_change(endpoint, healthy, reason)

    def _interval(self) -> float:
        """Seconds between checks of one endpoint: a large fleet is looked at less often rather than at any cost."""
        return max(self._settings.interval, len(self._watched) / self._settings.per_second)

    async def _pause(self, watched: _Watched) -> None:
        """Wait for the next check's time, or less when somebody asks for a look while it is healthy."""
        breaker = watched.breaker
        if not breaker.healthy:
            await asyncio.sleep(max(0.0, breaker.retry_at - self._clock()) * self._rng.uniform(1.0, 1.1))
            return
        try:
            async with asyncio.timeout(self._interval() * self._rng.uniform(0.9, 1.1)):
                await watched.look.wait()
        except TimeoutError:
            pass
