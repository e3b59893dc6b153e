"""The whole router in front of stand-in engines: what clients, operators and engines see."""

from __future__ import annotations

import asyncio
import json
import logging

import aiohttp
import pytest
from aiohttp import web

from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options
from tests.router.running import engines, running, until

LONG = "a long system prompt " * 200


async def test_an_answer_is_the_replicas_own() -> None:
    """Status, body and the replica's headers pass through; asked for, the decision stands beside them."""
    async with engines(1) as (engine,), running(engine.url) as router:
        status, headers, body = await router.chat("hello")
        assert status == 200
        assert body["choices"][0]["message"]["role"] == "assistant"
        assert headers["X-Kvroute-Replica"] == f"127.0.0.1:{engine.port}"
        assert float(headers["X-Kvroute-Predicted-TTFT"]) >= 0.0


async def test_the_next_turn_follows_its_prefix() -> None:
    """Four turns of each of four chats stay where they began, and the engine really hits."""
    async with engines(2) as pair, running(*(engine.url for engine in pair)) as router:
        for chat in range(4):
            text = f"{chat} {LONG}"
            homes = set()
            for turn in range(4):
                _, headers, _ = await router.chat(text)
                homes.add(headers["X-Kvroute-Replica"])
                text += f" turn {turn} " * 50
            assert len(homes) == 1
        assert sum(engine.hit_tokens for engine in pair) > 0.6 * sum(engine.queried_tokens for engine in pair)


async def test_streams_arrive_and_are_timed() -> None:
    """A stream ends with [DONE], and its first output trains the rate."""
    async with engines(1) as (engine,), running(engine.url) as router:
        body = {"model": "mock", "prompt": LONG, "max_tokens": 5, "stream": True}
        async with router.session.post(f"{router.url}/v1/completions", json=body) as answer:
            text = await answer.text()
        assert text.endswith("data: [DONE]\n\n")
        page = (await router.get("/metrics"))[1]
        assert 'kvroute_ttft_seconds_count{model="mock"' in page


async def test_unknown_model_is_vllms_own_404() -> None:
    """Word for word as the engine says it, with the names that exist."""
    async with engines(1) as (engine,), running(engine.url) as router:
        status, _, body = await router.chat("x", model="nope")
        async with router.session.post(
            f"{engine.url}/v1/chat/completions", json={"model": "nope", "messages": []}
        ) as own:
            assert (status, body) == (own.status, await own.json())


async def test_nobody_ready_is_503_with_retry_after_and_a_late_replica_joins() -> None:
    """Before any replica is up the router answers, and says so; one that comes up is used."""
    engine = StandInEngine(Options())
    await engine.start()
    url = engine.url
    await engine.stop()
    async with running(url, ready=0) as router:
        status, headers, body = await router.chat("x")
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "ready" in body["error"]["message"]
        assert (await router.get("/ready"))[0] == 503
        await engine.start()
        await until(lambda: router.server.deciding.fleet.everyone().size == 1)
        assert (await router.chat("x"))[0] == 200
        assert (await router.get("/ready"))[0] == 200
    await engine.stop()


async def test_one_of_two_dies_and_nobody_notices() -> None:
    """The next 16 requests all succeed."""
    async with engines(2) as (one, two), running(one.url, two.url) as router:
        for i in range(4):
            await router.chat(f"{i}")
        await one.stop()
        assert [(await router.chat(f"again {i}"))[0] for i in range(16)] == [200] * 16


async def test_a_replicas_own_error_is_passed_on_untouched() -> None:
    """A 500 is the engine's answer: it is relayed, and nobody else is asked."""
    async with engines(2) as pair, running(*(engine.url for engine in pair)) as router:
        for engine in pair:
            engine.faults.fail_next(500)
        before = sum(engine.requests_seen for engine in pair)
        status, _, body = await router.chat("x")
        assert status == 500
        assert body["error"]["code"] == 500
        assert sum(engine.requests_seen for engine in pair) == before + 1
        for engine in pair:
            engine.faults.clear()


async def test_a_connection_cut_before_the_answer_is_tried_elsewhere_once() -> None:
    """One cut is survived; two are a 502, and a third endpoint is left alone."""
    async with engines(3) as three, running(*(engine.url for engine in three)) as router:
        await router.chat("warm")
        three[0].faults.cut_next()
        three[1].faults.cut_next()
        three[2].faults.cut_next()
        status, _, body = await router.chat("poison")
        assert status == 502
        assert "two replicas failed" in body["error"]["message"]
        assert sum(engine.faults.served for engine in three) == 2


async def test_a_stream_cut_before_its_first_byte_is_tried_elsewhere() -> None:
    """The head is held back until a body byte comes, so the client never sees the replica that died."""
    async with engines(2) as pair, running(*(engine.url for engine in pair)) as router:
        for engine in pair:
            engine.faults.cut_next(after_events=0)
        pair[0].faults.clear()
        body = {"model": "mock", "prompt": "x", "max_tokens": 3, "stream": True}
        for _ in range(2):
            async with router.session.post(f"{router.url}/v1/completions", json=body) as answer:
                assert answer.status == 200
                assert (await answer.text()).endswith("data: [DONE]\n\n")


async def test_a_stream_cut_later_is_cut_visibly() -> None:
    """After the first byte a failure breaks the client's connection: nothing is padded or ended as if whole."""
    async with engines(1) as (engine,), running(engine.url) as router:
        engine.faults.cut_next(after_events=2)
        body = {"model": "mock", "prompt": "x", "max_tokens": 30, "stream": True}
        with pytest.raises(aiohttp.ClientPayloadError):
            async with router.session.post(f"{router.url}/v1/completions", json=body) as answer:
                await answer.text()
        assert 'outcome="failed"' in (await router.get("/metrics"))[1]


async def test_a_client_that_leaves_frees_the_slot() -> None:
    """The engine stops working for nobody."""
    async with engines(1, decode_rate=20.0) as (engine,), running(engine.url) as router:
        body = {"model": "mock", "prompt": "x", "max_tokens": 400, "stream": True}
        async with router.session.post(f"{router.url}/v1/completions", json=body) as answer:
            await answer.content.readline()
            assert engine.running == 1
            answer.close()
        await until(lambda: engine.running == 0)


async def test_a_restarted_engine_is_forgotten() -> None:
    """A replica that comes back with an empty cache is not believed to hold anything."""
    async with engines(1) as (engine,), running(engine.url) as router:
        await router.chat(LONG)
        assert float((await router.chat(LONG))[1]["X-Kvroute-Hit-Tokens"]) > 0
        await engine.stop()
        await until(lambda: router.server.deciding.fleet.everyone().size == 0)
        await engine.start()
        await until(lambda: router.server.deciding.fleet.everyone().size == 1)
        assert float((await router.chat(LONG))[1]["X-Kvroute-Hit-Tokens"]) == 0


async def test_draining_a_replica_and_back() -> None:
    """A drained replica gets nothing new; undrained it is used again."""
    async with engines(2) as (one, two), running(one.url, two.url) as router:
        name = f"127.0.0.1:{one.port}"
        async with router.session.post(f"{router.control}/replicas/{name}/drain") as answer:
            assert (await answer.json())["state"] == "draining"
        before = one.requests_seen
        for i in range(8):
            await router.chat(f"{i}")
        assert one.requests_seen == before
        async with router.session.post(f"{router.control}/replicas/{name}/undrain") as answer:
            assert (await answer.json())["state"] == "ready"
        for i in range(8):
            await router.chat(f"x{i}")
        assert one.requests_seen > before


async def test_management_paths_are_refused_unless_enabled() -> None:
    """403 by default; enabled, every replica is told."""
    async with engines(2) as pair:
        urls = [engine.url for engine in pair]
        async with running(*urls) as router, router.session.post(f"{router.url}/reset_prefix_cache") as answer:
            assert answer.status == 403
        async with running(*urls, management=True) as router:
            async with router.session.post(f"{router.url}/reset_prefix_cache") as answer:
                told = await answer.json()
            assert answer.status == 200
            assert sorted(told) == sorted(f"127.0.0.1:{engine.port}" for engine in pair)


async def test_several_models_behind_one_router() -> None:
    """A request goes only to replicas of its model; /v1/models is the union."""
    async with engines(1, model="a") as (one,), engines(1, model="b") as (two,), running(one.url, two.url) as router:
        models = (await router.get("/v1/models"))[1]["data"]
        assert sorted(entry["id"] for entry in models) == ["a", "b"]
        for _ in range(3):
            assert (await router.chat("x", model="b"))[0] == 200
        assert (one.requests_seen, two.requests_seen) == (0, 3)


async def test_lora_adapters_are_models_of_their_own() -> None:
    """A request for an adapter goes to a replica that has it."""
    async with engines(1) as (plain,), engines(1, loras=("law",)) as (lora,), running(plain.url, lora.url) as router:
        for _ in range(3):
            assert (await router.chat("x", model="law"))[0] == 200
        assert (plain.requests_seen, lora.requests_seen) == (0, 3)


async def test_explain_says_why() -> None:
    """The control port answers seconds per replica and scorer, and reserves nothing."""
    async with engines(2) as pair, running(*(engine.url for engine in pair)) as router:
        await router.chat(LONG)
        body = {"model": "mock", "messages": [{"role": "user", "content": LONG}]}
        async with router.session.post(f"{router.control}/explain", json=body) as answer:
            told = await answer.json()
        assert told["policy"] == "latency"
        assert {entry["scorer"] for entry in told["candidates"][0]["scorers"]} >= {"queue", "prefill", "congestion"}
        chosen = next(entry for entry in told["candidates"] if entry["chosen"])
        assert chosen["hit_tokens"] == max(entry["hit_tokens"] for entry in told["candidates"]) > 0


async def test_a_stored_response_goes_back_to_its_maker() -> None:
    """GET by id and previous_response_id both reach the replica that made the response."""
    async with engines(3) as three, running(*(engine.url for engine in three)) as router:
        body = {"model": "mock", "input": "hello", "max_output_tokens": 4}
        async with router.session.post(f"{router.url}/v1/responses", json=body) as answer:
            made = (await answer.json())["id"]
        assert router.server.traffic.stored.maker(made) is not None
        for _ in range(6):
            async with router.session.get(f"{router.url}/v1/responses/{made}") as answer:
                assert answer.status == 200


async def test_bodies_reach_the_replica_byte_for_byte() -> None:
    """Odd spacing, escapes and unknown fields are left as they came; kv_transfer_params is taken out."""
    seen: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(await request.read())
        return web.json_response({"ok": True})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model", "parent": None}]})

    async def well(_: web.Request) -> web.Response:
        return web.Response()

    application = web.Application()
    application.add_routes(
        [web.post("/v1/chat/completions", take), web.get("/v1/models", models), web.get("/health", well)]
    )
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    odd = b'{ "model":"m",\t"messages" : [{"role":"user","content":"\\u00e9 \xc3\xa9"}], "x":{"y":1.50} }\n'
    async with running(f"http://127.0.0.1:{port}") as router:
        for data in (odd, b'{"model":"m","messages":[],"kv_transfer_params":{"do_remote_prefill":true}}'):
            headers = {"Content-Type": "application/json"}
            async with router.session.post(f"{router.url}/v1/chat/completions", data=data, headers=headers) as answer:
                assert answer.status == 200
    await runner.cleanup()
    assert seen[0] == odd
    assert json.loads(seen[1]) == {"model": "m", "messages": []}


async def test_a_burst_ends_with_nothing_reserved() -> None:
    """100 requests at once, a third of them aborted: all answered or gone, no lease left (the fixture looks)."""
    async with engines(2, decode_rate=200.0) as pair, running(*(engine.url for engine in pair)) as router:
        tasks = [asyncio.create_task(router.chat(f"{i}", max_tokens=20)) for i in range(100)]
        await until(lambda: sum(engine.running for engine in pair) > 10)
        for task in tasks[::3]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(
            isinstance(one, asyncio.CancelledError) or one[0] == 200
            for one in ended
            if not isinstance(one, BaseException)
        )


async def flood(engine: StandInEngine, tokens: int) -> None:
    """Fill an engine's cache behind the router's back."""
    async with aiohttp.ClientSession() as session:
        for i in range(tokens // 1000):
            body = {"model": "mock", "prompt": f"{i} other people's text " * 200, "max_tokens": 1}
            async with session.post(f"{engine.url}/v1/completions", json=body) as answer:
                assert answer.status == 200


async def test_a_reply_that_tells_cached_tokens_corrects_what_is_older_too() -> None:
    """With vLLM's helpful flag: one hit that failed to come says that everything used before it is gone as well."""
    options = {"kv_blocks": 1024, "enable_prompt_tokens_details": True, "prefill_rate": 200_000.0}
    async with engines(1, **options) as (engine,), running(engine.url) as router:
        for text in ("old ", "new "):
            await router.chat(text + LONG)
        await flood(engine, 20_000)
        assert float((await router.chat("new " + LONG))[1]["X-Kvroute-Hit-Tokens"]) > 0
        assert router.server.deciding.occupancy.shortfalls == 1
        assert float((await router.chat("old " + LONG))[1]["X-Kvroute-Hit-Tokens"]) == 0
        page = (await router.get("/metrics"))[1]
        assert "kvroute_reported_prompt_tokens_total{" in page


async def test_stock_flags_correct_the_estimate_from_the_engines_totals() -> None:
    """Replies that tell nothing: the engine's own hit rate shrinks what its cache is believed to keep for us."""
    async with engines(1, kv_blocks=1024, prefill_rate=200_000.0) as (engine,), running(engine.url) as router:
        trust = router.server.membership.cached(f"127.0.0.1:{engine.port}").trust
        for i in range(30):
            text = f"{i % 2} " + LONG * 2
            await router.chat(text)
            await flood(engine, 20_000)
            if trust.share < 1.0:
                break
        assert trust.share < 1.0


async def test_a_thousand_short_prompts_spread_over_eight_engines() -> None:
    """Streams sent one after another to equal engines, whose learned rates are noisy: within 10 % of even."""
    async with (
        engines(8, prefill_rate=1e6, decode_rate=1e4) as eight,
        running(*(engine.url for engine in eight)) as router,
    ):
        for i in range(1000):
            body = {"model": "mock", "prompt": f"{i} what is {i * 7919}?", "max_tokens": 1, "stream": True}
            async with router.session.post(f"{router.url}/v1/completions", json=body) as answer:
                await answer.read()
        seen = [engine.requests_seen for engine in eight]
        assert 0.9 * 125 <= min(seen) <= max(seen) <= 1.1 * 125, seen


async def test_a_replica_that_dies_under_many_requests_costs_nobody_an_answer() -> None:
    """Forty whole replies under way on one engine: all are answered by the other."""
    async with engines(2, decode_rate=20.0) as (one, two), running(one.url, two.url) as router:
        tasks = [asyncio.create_task(router.chat(f"{i}", max_tokens=40)) for i in range(80)]
        await until(lambda: one.running + two.running == 80)
        await one.stop()
        assert [status for status, _, _ in await asyncio.gather(*tasks)] == [200] * 80


async def test_a_replica_that_comes_back_is_counted_again() -> None:
    """Its series on the metrics page go on after it left and joined under the same name."""
    async with engines(1) as (engine,), running(engine.url) as router:
        await router.chat("x")
        endpoint = next(iter(router.server.membership.members))
        backend = router.server.membership.members[endpoint].backend
        router.server._expect([])
        router.server._expect([backend])
        await until(lambda: router.server.deciding.fleet.everyone().size == 1)
        await router.chat("y")
        page = (await router.get("/metrics"))[1]
        assert f'kvroute_requests_total{{outcome="completed",model="mock",replica="{endpoint.name}"}} 1' in page


async def test_streams_tell_how_their_pieces_are_spaced() -> None:
    """One observation per stream."""
    async with engines(1, decode_rate=50.0) as (engine,), running(engine.url) as router:
        body = {"model": "mock", "prompt": "x", "max_tokens": 10, "stream": True}
        async with router.session.post(f"{router.url}/v1/completions", json=body) as answer:
            await answer.read()
        page = (await router.get("/metrics"))[1]
        assert f'kvroute_inter_chunk_seconds_count{{model="mock",replica="127.0.0.1:{engine.port}"}} 1' in page


async def test_each_request_has_its_line_in_the_log_where_that_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """Forwarded ones with what was predicted and what happened, those the router answered itself with their status."""
    async with engines(1) as (engine,), running(engine.url, logging__requests=True) as router:
        with caplog.at_level(logging.INFO, "kvroute.request"):
            await router.chat("x")
            await router.chat("x", model="nope")
        lines = [record.__dict__["fields"] for record in caplog.records if record.name == "kvroute.request"]
        assert [(line["outcome"], line["status"]) for line in lines] == [("completed", 200), ("answered", 404)]
        assert lines[0]["replica"] == f"127.0.0.1:{engine.port}"
