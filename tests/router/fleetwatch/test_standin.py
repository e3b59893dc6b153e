"""The watch against the shipped stand-in engine, which speaks vLLM's surface."""

from __future__ import annotations

import random

import aiohttp

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.fleetwatch.backend import Backend
from kvroute.router.fleetwatch.breaker import Limits
from kvroute.router.fleetwatch.engine_client import EngineClient
from kvroute.router.fleetwatch.exposition import COUNTERS
from kvroute.router.fleetwatch.health import HealthSettings
from kvroute.router.fleetwatch.scrape import ScrapeSettings
from kvroute.router.fleetwatch.watch import Watch, WatchSettings
from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options
from tests.router.fleetwatch.fakes import Journal, until

SETTINGS = WatchSettings(
    health=HealthSettings(interval=0.05, limits=Limits(base=0.02, cap=0.05, starting_cap=0.02)),
    scrape=ScrapeSettings(interval=0.05),
    discover_retry=0.02,
)


async def complete(engine: StandInEngine) -> None:
    """One completion, so that its totals grow."""
    body = {"model": engine.options.model, "prompt": "seven words of prompt are enough here", "max_tokens": 2}
    async with aiohttp.ClientSession() as session, session.post(f"{engine.url}/v1/completions", json=body) as answer:
        assert answer.status == 200


async def test_its_whole_life(client: EngineClient, journal: Journal) -> None:
    """It joins after its start-up time with its capacity, is read, dies, and comes back known as restarted."""
    options = Options(kv_blocks=100, block_size=16, startup_seconds=0.1, speed=50.0, loras=("sql",))
    async with StandInEngine(options) as engine:
        watch = Watch(client, journal, SETTINGS, rng=random.Random(1))
        watch.set_backends([Backend(Endpoint("127.0.0.1", engine.port))])
        await journal.until_told("joined")
        assert journal.detail("joined") == (("mock",), 1)
        await complete(engine)
        before = len(journal.told)
        await journal.until(lambda: len(journal.told) >= before + 2)
        readings = journal.detail("scraped")
        assert isinstance(readings, list)
        assert readings[0].capacity_tokens == 1600.0
        assert readings[0].prompt_tokens > 0
        assert [field for field in COUNTERS if getattr(readings[0], field) is None] == []
        await engine.stop()
        await journal.until_told("ejected")
        await engine.start()
        await journal.until_told("recovered")
        assert journal.detail("recovered") is True
        await watch.close()


async def joins(engine: StandInEngine, key: str | None, journal: Journal) -> str:
    """Watch it until it joins ("") or says what is in the way."""
    client = EngineClient(key)
    watch = Watch(client, journal, SETTINGS, rng=random.Random(1))
    watch.set_backends([Backend(Endpoint("127.0.0.1", engine.port))])
    await until(lambda: not watch.missing() or "answered 4" in watch.missing()[0][1])
    obstacle = watch.missing()[0][1] if watch.missing() else ""
    await watch.close()
    await client.close()
    return obstacle


async def test_a_key_is_needed_where_one_is_demanded() -> None:
    """Without the key it does not join and says what to set; with it it does."""
    async with StandInEngine(Options(api_key="secret")) as engine:
        journal = Journal()
        assert "--backend-api-key-env" in await joins(engine, None, journal)
        assert journal.events() == []
        assert await joins(engine, "secret", journal) == ""
        assert journal.events() == ["joined"]
