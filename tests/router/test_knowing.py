"""What a whole router shows of its knowledge: /replicas, /metrics and explanations, in front of stand-in engines."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvroute.router.core.canary import Comparison
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.memory_store import MemoryStore
from kvroute.router.knowledge.sharing.sharing import Sharing
from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options
from tests.modelfolder import make_model_folder
from tests.router.running import Running, engines, running, until

LONG = "hello the ing baki lo senvo, " * 40
PUBLISHING: dict[str, Any] = {"events_port": 0, "replay_port": 0, "enable_prompt_tokens_details": True, "speed": 20.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model's folder."""
    return str(make_model_folder(tmp_path_factory.mktemp("models") / "m"))


@asynccontextmanager
async def exact(folder: str) -> AsyncIterator[Running]:
    """A router in front of one engine whose cache it knows exactly, and which has answered once."""
    async with StandInEngine(Options(**PUBLISHING, model_folder=folder)) as engine, running(engine.url) as router:
        (replica,) = router.server.deciding.fleet
        await until(lambda: replica.source is Source.EXACT)
        await router.chat(LONG)
        await until(lambda: router.server.deciding.index.observed.blocks(replica.row) > 20)
        yield router


async def replicas(router: Running) -> dict[str, Any]:
    """What GET /replicas answers."""
    async with router.session.get(f"{router.control}/replicas") as answer:
        listed: dict[str, Any] = await answer.json()
        return listed


async def metrics(router: Running) -> dict[str, dict[str, float]]:
    """The metrics page: name -> {label values, joined by commas -> value}."""
    async with router.session.get(f"{router.control}/metrics") as answer:
        page: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(await answer.text()):
            for sample in family.samples:
                page.setdefault(sample.name, {})[",".join(sample.labels.values())] = sample.value
        return page


async def explained(router: Running, model: str = "mock") -> dict[str, Any]:
    """What POST /explain answers for the prompt that was sent."""
    body = {"model": model, "messages": [{"role": "user", "content": LONG}]}
    async with router.session.post(f"{router.control}/explain", json=body) as answer:
        told: dict[str, Any] = await answer.json()
        return told


async def test_an_exactly_known_replica_says_so(folder: str) -> None:
    """Its source, the sentence, its events, what they tell of, and as cached tokens no more than that."""
    async with exact(folder) as router:
        listed = await replicas(router)
        assert listed["sharing"] is None
        (one,) = listed["replicas"]
        assert one["knowledge"] == "exact"
        assert "token lens" in one["about"]
        assert "KV events from tcp://" in one["about"]
        assert one["events"]["connected"] is True
        assert one["events"]["foreign"] is False
        assert one["events"]["batches"] == one["events"]["next_sequence"] > 0
        assert 0.0 <= one["events"]["last_batch_seconds"] < 10.0
        assert one["canary"] == {"disagreement": 0.0, "alarm": False, "hint": ""}
        assert one["observed_blocks"]["gpu"] > 20
        assert one["cached_tokens"] == 16 * one["observed_blocks"]["gpu"]


async def test_the_metrics_tell_the_same(folder: str) -> None:
    """Source, blocks, stream and lens of the replica and its model."""
    async with exact(folder) as router:
        page = await metrics(router)
        (replica,) = router.server.deciding.fleet
        name = replica.name
        assert page["kvroute_replica_knowledge"][f"{name},exact"] == 1
        stored = page["kvroute_events_stored_blocks_total"][name]
        assert page["kvroute_replica_observed_blocks"][f"{name},gpu"] == stored > 20
        assert page["kvroute_events_connected"][name] == 1
        assert page["kvroute_lens"] == {"mock,token": 1, "mock,text": 0}
        assert sum(page["kvroute_lens_prompts_total"].values()) == 1
        assert page["kvroute_lens_cache_bytes"]["mock"] > 0
        assert "kvroute_sharing_state" not in page


async def test_an_explanation_tells_lens_and_source(folder: str) -> None:
    """The prompt was keyed by tokens, and the hit is known exactly."""
    async with exact(folder) as router:
        told = await explained(router)
        assert told["lens"] == "token"
        assert "blocks of 16 tokens" in told["lens_about"]
        assert 0 <= told["prompt_tokens"] - told["keyed_tokens"] < 16
        (candidate,) = told["candidates"]
        assert candidate["knowledge"] == "exact"
        assert candidate["hit_tokens"] > 300


async def test_an_alarm_is_shown_with_its_likely_cause(folder: str) -> None:
    """The hint is in words, and says nothing while there is no alarm."""
    async with exact(folder) as router:
        (replica,) = router.server.deciding.fleet
        for _ in range(20):
            router.server.membership.cached(replica.name).canary.saw(Comparison(1000.0, 100.0, 16.0))
        (one,) = (await replicas(router))["replicas"]
        assert one["canary"]["alarm"] is True
        assert one["canary"]["disagreement"] == pytest.approx(0.9)
        assert "the engine holds less than is believed" in one["canary"]["hint"]


async def test_a_publisher_out_of_reach_is_named(folder: str) -> None:
    """The sentence and the status say that the connection is lost; the estimate counts beside what was told."""
    async with StandInEngine(Options(**PUBLISHING, model_folder=folder)) as engine, running(engine.url) as router:
        (replica,) = router.server.deciding.fleet
        await until(lambda: replica.source is Source.EXACT)
        (rank,) = engine.service.ranks
        assert rank.publisher is not None
        silenced, rank.publisher = rank.publisher, None
        await silenced.close()
        await until(lambda: replica.source is Source.RECOVERING)
        await router.chat(LONG)
        (one,) = (await replicas(router))["replicas"]
        assert one["knowledge"] == "recovering"
        assert "no connection" in one["about"]
        assert one["events"]["connected"] is False
        assert one["cached_tokens"] > 300 > one["observed_blocks"]["gpu"]


async def test_without_tokenizer_all_is_expected() -> None:
    """Text lens, no events, an estimate; and a model that a client makes up becomes no label."""
    async with engines(1, speed=20.0) as (engine,), running(engine.url) as router:
        await until(lambda: router.server.lenses.of("mock") is not None)
        await router.chat(LONG)
        await router.chat(LONG, model="made-up")
        (one,) = (await replicas(router))["replicas"]
        assert one["knowledge"] == "expected"
        assert one["events"] is None
        assert one["about"].startswith("text lens")
        assert one["cached_tokens"] > 100
        told = await explained(router)
        assert told["lens"] == "text"
        assert told["lens_about"].startswith("text lens")
        assert [candidate["knowledge"] for candidate in told["candidates"]] == ["expected"]
        page = await metrics(router)
        assert page["kvroute_lens"] == {"mock,token": 0, "mock,text": 1}
        assert "kvroute_events_connected" not in page
        assert not any("made-up" in labels for samples in page.values() for labels in samples)


async def test_a_replica_that_leaves_takes_its_series_along(folder: str) -> None:
    """Its knowledge, canary and events are gone from the page, and its model's lens with them."""
    async with exact(folder) as router:
        (endpoint,) = router.server.membership.members
        router.server.membership.gone(endpoint, 0.0)
        page = await metrics(router)
        gone = ("kvroute_replica_knowledge", "kvroute_canary", "kvroute_events", "kvroute_lens")
        assert not [name for name in page if name.startswith(gone)]


async def test_sharing_is_shown_where_there_is_one() -> None:
    """The state of the store, the other routers and the lag, in /replicas and in the metrics."""
    async with engines(1) as (engine,), running(engine.url) as router:
        server = router.server
        server.hearing.sharing = sharing = Sharing(server.deciding, MemoryStore(time.monotonic))
        try:
            await sharing.beat()
            shared = (await replicas(router))["sharing"]
            assert (shared["state"], shared["routers"], shared["foreign"]) == ("ok", 0, 0)
            assert shared["state_seconds"] >= 0.0
            page = await metrics(router)
            assert page["kvroute_sharing_state"]["ok"] == 1
            assert page["kvroute_sharing_routers"][""] == 0
        finally:
            server.hearing.sharing = None
