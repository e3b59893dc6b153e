"""The life of an engine, told in order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from kvroute.router.fleetwatch.backend import Backend
from kvroute.router.fleetwatch.breaker import Limits
from kvroute.router.fleetwatch.engine_client import EngineClient
from kvroute.router.fleetwatch.health import HealthSettings
from kvroute.router.fleetwatch.scrape import ScrapeSettings
from kvroute.router.fleetwatch.watch import Watch, WatchSettings
from kvroute.scorers.contract import Role
from tests.router.fleetwatch.fakes import FakeEngine, Journal, until

SETTINGS = WatchSettings(
    health=HealthSettings(interval=60.0, limits=Limits(base=0.02, cap=0.05, starting_cap=0.02)),
    scrape=ScrapeSettings(interval=60.0),
    discover_every=0.02,
    discover_retry=0.01,
)


@pytest.fixture
async def watch(client: EngineClient, journal: Journal) -> AsyncIterator[Watch]:
    made = Watch(client, journal, SETTINGS, rng=random.Random(1))
    yield made
    await made.close()


async def test_it_joins_with_models_and_readings(engine: FakeEngine, watch: Watch, journal: Journal) -> None:
    """The listener knows what it serves and how big it is before the first request."""
    watch.set_backends([Backend(engine.endpoint)])
    assert [reason for _, reason in watch.missing()] == ["has not answered yet"]
    await journal.until_told("joined")
    assert journal.told == [("joined", (("m",), 1))]
    assert watch.missing() == []


async def test_it_joins_once_its_models_are_listed(engine: FakeEngine, watch: Watch, journal: Journal) -> None:
    """A good /health alone is not enough: it is unknown what to send there."""
    engine.models_status = 500
    watch.set_backends([Backend(engine.endpoint)])
    await until(lambda: engine.asked.count("/v1/models") >= 2)
    assert journal.told == []
    engine.models_status = 200
    await journal.until_told("joined")


async def test_named_models_need_no_list(engine: FakeEngine, watch: Watch, journal: Journal) -> None:
    """`model=` is believed where the engine lists nothing, and metrics are optional."""
    engine.models_status = engine.metrics_status = 404
    watch.set_backends([Backend(engine.endpoint, models=("mine",))])
    await journal.until_told("joined")
    assert journal.detail("joined") == (("mine",), 0)


@pytest.mark.parametrize("restarted", [False, True])
async def test_ejected_and_back(engine: FakeEngine, watch: Watch, journal: Journal, restarted: bool) -> None:
    """A process that kept its start time was only out of reach; another one has an empty cache."""
    watch.set_backends([Backend(engine.endpoint)])
    await journal.until_told("joined")
    await engine.stop()
    watch.report_failure(engine.endpoint, time.monotonic())
    await journal.until_told("ejected")
    if restarted:
        engine.started_at += 60.0
        engine.prompt_tokens = 0.0
    await engine.start()
    await journal.until_told("recovered")
    assert journal.events() == ["joined", "ejected", "recovered"]
    assert journal.detail("recovered") is restarted
    watch.report_success(engine.endpoint)


async def test_without_metrics_a_refused_engine_counts_as_restarted(
    engine: FakeEngine, watch: Watch, journal: Journal
) -> None:
    """Forgetting a warm cache costs little; believing in a cold one costs much."""
    engine.metrics_status = 404
    watch.set_backends([Backend(engine.endpoint)])
    await journal.until_told("joined")
    await engine.stop()
    watch.suspect(engine.endpoint)
    await journal.until_told("ejected")
    await engine.start()
    await journal.until_told("recovered")
    assert journal.detail("recovered") is True


async def test_a_loaded_adapter_is_noticed(engine: FakeEngine, watch: Watch, journal: Journal) -> None:
    """What it serves is looked up again and again."""
    watch.set_backends([Backend(engine.endpoint)])
    await journal.until_told("joined")
    engine.models = [*engine.models, {"id": "sql", "parent": "m"}]
    await journal.until_told("serving")
    assert journal.events() == ["joined", "serving"]
    assert journal.detail("serving") == ("sql",)


async def test_unlisted_is_gone_and_changed_joins_anew(engine: FakeEngine, watch: Watch, journal: Journal) -> None:
    """A new role is a leave and a join; a backend left out leaves."""
    watch.set_backends([Backend(engine.endpoint)])
    await journal.until_told("joined")
    watch.set_backends([Backend(engine.endpoint)])
    watch.set_backends([Backend(engine.endpoint, role=Role.DECODE)])
    await journal.until_told("joined", 2)
    watch.set_backends([])
    assert journal.events() == ["joined", "gone", "joined", "gone"]


async def test_a_backend_that_never_joined_leaves_in_silence(
    engine: FakeEngine, watch: Watch, journal: Journal
) -> None:
    """`gone` follows only a `joined`."""
    await engine.stop()
    watch.set_backends([Backend(engine.endpoint)])
    watch.set_backends([])
    assert journal.told == []


async def test_closing_ends_every_task(engine: FakeEngine, watch: Watch, journal: Journal) -> None:
    """Nothing is told after close, and nothing runs on."""
    watch.set_backends([Backend(engine.endpoint)])
    await journal.until_told("joined")
    before = asyncio.current_task()
    await watch.close()
    names = [task.get_name() for task in asyncio.all_tasks() if task is not before]
    assert not [name for name in names if name.startswith(("watch", "health", "scrape"))]
    assert journal.events() == ["joined"]
