"""Scraping engines' metrics."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from kvroute.router.fleetwatch.engine_client import EngineClient
from kvroute.router.fleetwatch.exposition import Reading
from kvroute.router.fleetwatch.scrape import Scraper, ScrapeSettings
from tests.router.fleetwatch.fakes import FakeEngine, Journal, until


@pytest.fixture
async def scraper(client: EngineClient, journal: Journal) -> AsyncIterator[Scraper]:
    settings = ScrapeSettings(interval=0.01, timeout=5.0, slowest=0.02)
    made = Scraper(client, journal, settings, rng=random.Random(1))
    yield made
    await made.close()


async def test_readings_keep_coming(engine: FakeEngine, scraper: Scraper, journal: Journal) -> None:
    """Each interval brings fresh readings."""
    scraper.add(engine.endpoint)
    await journal.until_told("scraped", 3)
    readings = journal.detail("scraped")
    assert isinstance(readings, list)
    assert isinstance(readings[0], Reading)
    assert (readings[0].running, readings[0].prompt_tokens) == (1.0, 100.0)
    assert scraper.last(engine.endpoint) == readings


async def test_a_restart_is_told_before_its_readings(engine: FakeEngine, scraper: Scraper, journal: Journal) -> None:
    """Totals that run backwards mean an empty cache."""
    scraper.add(engine.endpoint)
    await journal.until_told("scraped")
    engine.prompt_tokens = 1.0
    await journal.until_told("restarted")
    told = [event for event, _ in journal.told]
    at = told.index("restarted")
    await journal.until(lambda: len(journal.told) > at + 1)
    assert journal.events() == ["restarted"]
    before, after = (journal.told[index][1] for index in (at - 1, at + 1))
    assert isinstance(before, list)
    assert isinstance(after, list)
    assert (before[0].prompt_tokens, after[0].prompt_tokens) == (100.0, 1.0)


async def test_a_slow_engine_delays_nobody(engine: FakeEngine, scraper: Scraper, journal: Journal) -> None:
    """One engine hangs; the other's readings keep coming."""
    engine.hang = asyncio.Event()
    other = FakeEngine()
    await other.start()
    scraper.add(engine.endpoint)
    scraper.add(other.endpoint)
    await journal.until_told("scraped", 5)
    assert scraper.last(engine.endpoint) == []
    await other.stop()


@pytest.mark.parametrize("status", [404, 500])
async def test_failing_metrics_are_tried_again(
    engine: FakeEngine, scraper: Scraper, journal: Journal, status: int
) -> None:
    """An engine without metrics is asked seldom, and read as soon as it has some."""
    engine.metrics_status = status
    scraper.add(engine.endpoint)
    await until(lambda: len(engine.asked) >= 3)
    assert journal.told == []
    engine.metrics_status = 200
    await journal.until_told("scraped")


async def test_one_scrape_on_demand(engine: FakeEngine, scraper: Scraper, journal: Journal) -> None:
    """It answers the caller, also whether the engine restarted, and tells nobody else."""
    readings, restarted = await scraper.scrape_now(engine.endpoint)
    assert (len(readings), restarted) == (1, False)
    engine.started_at += 60.0
    assert (await scraper.scrape_now(engine.endpoint))[1]
    engine.metrics_status = 500
    assert await scraper.scrape_now(engine.endpoint) == ([], False)
    assert journal.told == []


async def test_a_removed_endpoint_is_left_alone(engine: FakeEngine, scraper: Scraper, journal: Journal) -> None:
    """Its task ends and its readings are forgotten."""
    scraper.add(engine.endpoint)
    await journal.until_told("scraped")
    scraper.remove(engine.endpoint)
    scraper.remove(engine.endpoint)
    assert scraper.last(engine.endpoint) == []


async def test_closing_ends_every_task(engine: FakeEngine, scraper: Scraper) -> None:
    """Nothing runs on after close, even when a scrape hangs."""
    engine.hang = asyncio.Event()
    scraper.add(engine.endpoint)
    await until(lambda: bool(engine.asked))
    await scraper.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("scrape")]
