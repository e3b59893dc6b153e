"""KV events through the whole router, from engines that publish them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from kvroute.router import hearing
from kvroute.router.core.replica import Replica
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.events import sources
from kvroute.router.knowledge.events.stream import Stream
from kvroute.router.testing import kvevents
from kvroute.router.testing.children import free_ports
from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options
from tests.modelfolder import make_model_folder
from tests.router.running import Running, running, until

LONG = "hello the ing baki lo senvo, " * 40
PUBLISHING: dict[str, Any] = {"events_port": 0, "replay_port": 0, "enable_prompt_tokens_details": True, "speed": 20.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model's folder."""
    return str(make_model_folder(tmp_path_factory.mktemp("models") / "m"))


@asynccontextmanager
async def engines(count: int, folder: str, **options: Any) -> AsyncIterator[list[StandInEngine]]:
    """Engines that tokenise as the model in the folder and publish their events."""
    async with AsyncExitStack() as stack:
        made = [Options(**{**PUBLISHING, "model_folder": folder, **options}) for _ in range(count)]
        yield [await stack.enter_async_context(StandInEngine(one)) for one in made]


def replica(router: Running, index: int = 0) -> Replica:
    """One of the router's replicas."""
    return list(router.server.deciding.fleet)[index]


async def known(router: Running, source: Source = Source.EXACT) -> None:
    """Wait until every replica's knowledge is of this source."""
    await until(lambda: all(one.source is source for one in router.server.deciding.fleet))


def free_port_runs(count: int, length: int) -> list[int]:
    """The first ports of `count` runs of neighbouring free ports."""
    found: list[int] = []
    for port in free_ports(60):
        if len(found) < count and all(_is_free(port + offset) for offset in range(length)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def heard_stream(router: Running) -> Stream | None:
    """The first replica's event stream."""
    heard = router.server.hearing.of(replica(router).name)
    return None if heard is None else heard.stream


async def told(router: Running) -> None:
    """Wait until events have told of a long prompt's blocks: they may come after the reply."""
    await until(lambda: router.server.deciding.index.observed.blocks(replica(router).row) > 20)


async def scraped(router: Running) -> None:
    """Wait until /metrics has shown what the engine did: a restart is seen by totals that run backwards."""
    cached = router.server.membership.cached(replica(router).name)
    await until(lambda: cached.last is not None and (cached.last.prompt_tokens or 0) > 0)


async def hits(router: Running, text: str = LONG) -> tuple[int, int]:
    """(predicted, reported) cached tokens of one chat."""
    _, headers, body = await router.chat(text)
    return int(headers["X-Kvroute-Hit-Tokens"]), body["usage"]["prompt_tokens_details"]["cached_tokens"]


async def test_with_no_option_at_all_knowledge_is_exact(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    """The router finds tokenizer, block size, events and capacity by itself, says so, and predicts to the token."""
    caplog.set_level("INFO")
    async with engines(1, folder) as (engine,), running(engine.url) as router:
        await known(router)
        assert await hits(router) == (0, 0)
        predicted, reported = await hits(router)
        assert predicted == reported > 300
        assert "token lens" in caplog.text
        assert "KV events from tcp://127.0.0.1:" in caplog.text
        assert "(told by engine)" in caplog.text


async def test_what_others_sent_is_known(folder: str) -> None:
    """A prompt that this router never saw, sent to an engine past it, is found there."""
    async with engines(2, folder) as pair, running(*(engine.url for engine in pair)) as router:
        await known(router)
        body = {"model": "mock", "max_tokens": 2, "messages": [{"role": "user", "content": LONG}]}
        async with router.session.post(f"{pair[1].url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
        observed = router.server.deciding.index.observed
        await until(lambda: observed.blocks(replica(router, 1).row) > 20)
        _, headers, answered = await router.chat(LONG)
        assert headers["X-Kvroute-Replica"] == f"127.0.0.1:{pair[1].port}"
        assert int(headers["X-Kvroute-Hit-Tokens"]) == answered["usage"]["prompt_tokens_details"]["cached_tokens"] > 300


async def test_a_restarted_router_is_warm_by_replay(folder: str) -> None:
    """The engine's own buffer tells a new router everything from the engine's start on."""
    async with engines(1, folder) as (engine,):
        async with running(engine.url) as router:
            await known(router)
            await hits(router)
        async with running(engine.url) as router:
            await known(router)
            predicted, reported = await hits(router)
            assert predicted == reported > 300


async def test_events_lost_for_good_are_made_up_for(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine's buffer no longer reaches back, a hot prompt that no event tells of again is still predicted
    after its first request."""
    monkeypatch.setattr(kvevents, "BUFFERED_BATCHES", 3)
    async with engines(1, folder) as (engine,):
        async with running(engine.url) as router:
            await known(router)
            await hits(router)
            for number in range(5):
                await hits(router, f"{number} {LONG}")
        async with running(engine.url) as router:
            await known(router, Source.RECOVERING)
            pairs = [await hits(router, LONG + "x " * 20 * number) for number in range(20)]
        predicted, reported = (sum(column) for column in zip(*pairs, strict=True))
        assert predicted > 0.9 * reported > 0


async def test_a_reset_empties_what_is_known(folder: str) -> None:
    """The engine tells of a reset with its next step: from the second request on nothing old is predicted."""
    async with engines(1, folder) as (engine,), running(engine.url) as router:
        await known(router)
        await hits(router)
        await told(router)
        async with router.session.post(f"{engine.url}/reset_prefix_cache") as answer:
            assert answer.status == 200
        await hits(router, "something else altogether")
        await until(lambda: router.server.deciding.index.observed.blocks(replica(router).row) < 10)
        assert await hits(router) == (0, 0)
        assert replica(router).source is Source.EXACT
        await until(lambda: not router.server.deciding.index.observed.sweep(0))


async def test_an_engine_restarted_in_place_is_followed_anew(folder: str) -> None:
    """Old blocks are gone, and what the new process holds is known exactly."""
    events, replay = free_ports(2)
    async with (
        engines(1, folder, events_port=events, replay_port=replay) as (engine,),
        running(engine.url) as router,
    ):
        await known(router)
        await hits(router)
        before = heard_stream(router)
        assert before is not None
        await scraped(router)
        await engine.stop()
        await until(lambda: router.server.deciding.fleet.everyone().size == 0)
        await engine.start()
        await until(lambda: router.server.deciding.fleet.everyone().size == 1)
        await until(lambda: before.counts.restarts == 1 or before.next == 0)
        await known(router)
        assert await hits(router) == (0, 0)
        predicted, reported = await hits(router)
        assert predicted == reported > 300


async def test_an_engine_that_publishes_elsewhere_after_its_return_is_found(folder: str) -> None:
    """It is asked again where it publishes; what the old publisher told is forgotten."""
    async with engines(1, folder) as (engine,), running(engine.url) as router:
        await known(router)
        await hits(router)
        before = heard_stream(router)
        await scraped(router)
        await engine.stop()
        await until(lambda: router.server.deciding.fleet.everyone().size == 0)
        await engine.start()
        await until(lambda: heard_stream(router) not in (before, None))
        await known(router)
        assert await hits(router) == (0, 0)
        predicted, reported = await hits(router)
        assert predicted == reported > 300


async def test_a_restart_that_the_events_told_first_costs_nothing(folder: str) -> None:
    """When the watch sees a restart after the new engine's first blocks were told of, those are still known."""
    async with engines(1, folder) as (engine,), running(engine.url) as router:
        await known(router)
        stream = heard_stream(router)
        assert stream is not None
        stream._begin_anew(router.server.traffic.clock())
        heard = router.server.hearing.of(replica(router).name)
        assert heard is not None
        heard.go_on()
        await known(router)
        await hits(router)
        await told(router)
        router.server.membership.restarted(next(iter(router.server.membership.members)), 0.0)
        predicted, reported = await hits(router)
        assert predicted == reported > 300


async def test_an_engine_that_does_not_answer_is_asked_again(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failed question where it publishes does not cost its events for good."""
    true = sources.ask
    asked: list[float] = []

    async def ask(*given: Any, **more: Any) -> sources.Sources:
        asked.append(0.0)
        return sources.Sources(problems=("no answer",)) if len(asked) < 3 else await true(*given, **more)

    monkeypatch.setattr(sources, "ask", ask)
    monkeypatch.setattr(hearing, "RETRY_SECONDS", 0.01)
    async with engines(1, folder) as (engine,), running(engine.url) as router:
        await known(router)
        assert len(asked) == 3


async def test_blocks_of_another_size_are_said_to_be_of_no_use(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where the engine's block size is no multiple of ours the estimate stands, and the log says what to configure."""
    caplog.set_level("INFO")
    async with engines(1, folder) as (engine,), running(engine.url, knowledge__block_tokens=24) as router:
        await until(lambda: heard_stream(router) is not None)
        await hits(router)
        await until(lambda: "set knowledge.block_tokens" in caplog.text)
        predicted, reported = await hits(router)
        assert 0 < predicted <= reported
        assert replica(router).source is Source.EXPECTED


async def test_requests_that_read_no_cache_are_no_evidence(folder: str) -> None:
    """Log-probabilities of the prompt keep the engine from using its cache: nothing is predicted, nothing concluded."""
    async with engines(1, folder) as (engine,), running(engine.url) as router:
        await known(router)
        await hits(router)
        for number in range(4):
            _, headers, _ = await router.chat(f"{LONG}{number}", prompt_logprobs=1)
            assert headers["X-Kvroute-Hit-Tokens"] == "0"
        predicted, reported = await hits(router)
        assert predicted == reported > 300
        assert replica(router).source is Source.EXACT


async def test_an_engine_without_events_is_estimated_and_told_how(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a publisher the estimate stands, and the log says which flag makes it exact."""
    caplog.set_level("INFO")
    async with engines(1, folder, events_port=None, replay_port=None) as (engine,), running(engine.url) as router:
        await until(lambda: "publishes no KV events" in caplog.text)
        assert "--kv-events-config" in caplog.text
        await hits(router)
        predicted, reported = await hits(router)
        assert predicted == reported > 300
        assert replica(router).source is Source.EXPECTED


async def test_events_can_be_switched_off(folder: str) -> None:
    """`knowledge.kv_events: off` subscribes to nobody."""
    async with engines(1, folder) as (engine,), running(engine.url, knowledge__kv_events="off") as router:
        await until(lambda: router.server.lenses.of("mock") is not None)
        heard = router.server.hearing.of(replica(router).name)
        assert heard is not None
        await until(lambda: "switched off" in heard.about)
        assert heard.subscription is None


async def test_engines_that_do_not_tell_can_be_found_by_convention(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for, the usual ports are tried where an engine has no /kv_event_sources."""
    events, replay = free_ports(2)
    monkeypatch.setattr(sources, "PATH", "/no/such/path")
    found = {"knowledge__events_port": events, "knowledge__replay_port": replay}
    async with (
        engines(1, folder, events_port=events, replay_port=replay) as (engine,),
        running(engine.url, knowledge__kv_events="convention", **found) as router,
    ):
        await hits(router)
        await known(router)
        predicted, reported = await hits(router)
        assert predicted == reported > 300


async def test_sockets_behind_the_url_are_used(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operator wrote goes before what the engine tells."""
    monkeypatch.setattr(sources, "PATH", "/no/such/path")
    events, replay = free_ports(2)
    where = f"events=tcp://127.0.0.1:{events},replay=tcp://127.0.0.1:{replay}"
    async with (
        engines(1, folder, events_port=events, replay_port=replay) as (engine,),
        running(f"{engine.url},{where}") as router,
    ):
        await hits(router)
        await known(router)


async def test_a_prefill_ends_with_the_event_of_its_last_block(folder: str) -> None:
    """A long reply that is not streamed stops weighing as prefill when its prompt's blocks are told of."""
    async with engines(1, folder, speed=1.0, decode_rate=20.0) as (engine,), running(engine.url) as router:
        await known(router)
        one = replica(router)
        asked = asyncio.create_task(router.chat(LONG, max_tokens=20))
        await until(lambda: one.open == 1)
        await until(lambda: one.pending == 0)
        assert not asked.done()
        await asked


async def test_an_engine_that_goes_silent_is_estimated_meanwhile(folder: str) -> None:
    """While its publisher cannot be reached, what is sent there is still expected there, and does not lapse."""
    async with engines(1, folder) as (engine,), running(engine.url) as router:
        await known(router)
        (rank,) = engine.service.ranks
        assert rank.publisher is not None
        silenced, rank.publisher = rank.publisher, None
        await silenced.close()
        await until(lambda: replica(router).source is Source.RECOVERING)
        await hits(router)
        predicted, reported = await hits(router)
        assert predicted == reported > 300


async def test_each_data_parallel_rank_is_followed_by_itself(folder: str) -> None:
    """Two ranks of one engine are two replicas, each known by its own events, and a prompt goes to the rank that has
    it."""
    events, replay = free_port_runs(2, 2)
    ranks = {"data_parallel_size": 2, "events_port": events, "replay_port": replay}
    async with engines(1, folder, **ranks) as (engine,), running(engine.url) as router:
        await until(lambda: len(list(router.server.deciding.fleet)) == 2)
        await known(router)
        for number in range(4):
            text = f"{number} {LONG}"
            _, first, _ = await router.chat(text)
            _, second, body = await router.chat(text)
            assert first["X-Kvroute-Replica"] == second["X-Kvroute-Replica"]
            cached = body["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert int(second["X-Kvroute-Hit-Tokens"]) == cached > 300
