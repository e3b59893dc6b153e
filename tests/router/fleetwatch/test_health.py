"""Active and passive health checks over real sockets."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.fleetwatch.breaker import Limits, State
from kvroute.router.fleetwatch.engine_client import EngineClient
from kvroute.router.fleetwatch.health import Health, HealthSettings
from tests.router.fleetwatch.fakes import FakeEngine, until

QUICK = Limits(base=0.02, cap=0.05, starting_cap=0.02, probation=0.5)


class Changes:
    """Collects what Health tells."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[bool, str]] = asyncio.Queue()

    def __call__(self, endpoint: Endpoint, healthy: bool, reason: str) -> None:
        self.told.put_nowait((healthy, reason))

    async def next(self) -> tuple[bool, str]:
        async with asyncio.timeout(10.0):
            return await self.told.get()


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
async def health(client: EngineClient, changes: Changes) -> AsyncIterator[Health]:
    """Checks only every minute, so that what tests see comes from reports."""
    settings = HealthSettings(interval=60.0, timeout=5.0, limits=QUICK)
    made = Health(client, changes, settings, rng=random.Random(1))
    yield made
    await made.close()


async def test_an_engine_that_answers_becomes_healthy(engine: FakeEngine, health: Health, changes: Changes) -> None:
    """The first check follows at once."""
    health.add(engine.endpoint)
    health.add(engine.endpoint)
    assert not health.healthy(engine.endpoint)
    assert await changes.next() == (True, "GET /health answers 200")
    assert health.healthy(engine.endpoint)


async def test_an_engine_not_up_yet_is_found_when_it_is(engine: FakeEngine, health: Health, changes: Changes) -> None:
    """It is looked for until it answers."""
    await engine.stop()
    health.add(engine.endpoint)
    await until(lambda: "cannot connect" in health.state(engine.endpoint)[1])
    assert changes.told.empty()
    await engine.start()
    assert (await changes.next())[0]


async def test_a_killed_engine_is_ejected_by_the_first_failed_request(
    engine: FakeEngine, health: Health, changes: Changes
) -> None:
    """The failure has it checked at once; nobody listens, so it is out without waiting for more failures."""
    health.add(engine.endpoint)
    await changes.next()
    await engine.stop()
    began = time.monotonic()
    health.report_failure(engine.endpoint, began)
    healthy, reason = await changes.next()
    assert not healthy
    assert "cannot connect" in reason
    # Two orders of magnitude below the interval; a sharp bound would measure this machine's load.
    assert time.monotonic() - began < 2.0


async def test_a_broken_connection_has_it_looked_at(engine: FakeEngine, health: Health, changes: Changes) -> None:
    """A cut reply is no proof, but worth a check."""
    health.add(engine.endpoint)
    await changes.next()
    await engine.stop()
    health.suspect(engine.endpoint)
    assert not (await changes.next())[0]


async def test_failing_requests_eject_although_checks_succeed(
    engine: FakeEngine, health: Health, changes: Changes
) -> None:
    """Three in a row are enough, at once; the trial brings it back."""
    health.add(engine.endpoint)
    await changes.next()
    for _ in range(3):
        health.report_failure(engine.endpoint, time.monotonic())
    assert not health.healthy(engine.endpoint)
    assert await changes.next() == (False, "requests could not connect")
    assert (await changes.next())[0]


async def test_answers_excuse_single_failures(engine: FakeEngine, health: Health, changes: Changes) -> None:
    """Failures count only in a row."""
    health.add(engine.endpoint)
    await changes.next()
    for _ in range(6):
        health.report_failure(engine.endpoint, time.monotonic())
        health.report_success(engine.endpoint)
    assert health.healthy(engine.endpoint)


async def test_a_dead_engine_behind_a_live_server_is_ejected(
    engine: FakeEngine, health: Health, changes: Changes
) -> None:
    """vLLM answers 503 to /health once its engine process died; it comes back by a trial when that ends."""
    health.add(engine.endpoint)
    await changes.next()
    engine.health = 503
    health.suspect(engine.endpoint)
    assert await changes.next() == (False, "GET /health answered 503")
    engine.health = 200
    assert (await changes.next())[0]


async def test_one_odd_answer_does_not_eject(engine: FakeEngine, health: Health, changes: Changes) -> None:
    """A single 500 is forgiven."""
    health.add(engine.endpoint)
    await changes.next()
    engine.health = 500
    asked = len(engine.asked)
    health.suspect(engine.endpoint)
    await until(lambda: len(engine.asked) > asked)
    assert health.state(engine.endpoint)[0] is State.HEALTHY


async def test_reports_about_strangers_are_ignored(health: Health) -> None:
    """A request may outlive its backend's entry."""
    stranger = Endpoint("127.0.0.1", 9)
    health.report_failure(stranger, 0.0)
    health.report_success(stranger)
    health.suspect(stranger)
    health.remove(stranger)
    assert not health.healthy(stranger)


async def test_closing_ends_every_task(engine: FakeEngine, health: Health) -> None:
    """Nothing runs on after close, even when a check hangs."""
    engine.hang = asyncio.Event()
    health.add(engine.endpoint)
    await until(lambda: bool(engine.asked))
    await health.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("health")]
