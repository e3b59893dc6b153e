"""The stand-in as a running server: flags, disconnects, faults, restarts, and what it costs to be busy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from kvroute.router.fleetwatch.exposition import parse_metrics
from kvroute.router.testing.children import free_ports
from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options

LONG = "the quick brown fox jumps over the lazy dog " * 40


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def _post(session: aiohttp.ClientSession, url: str, body: dict[str, Any], **headers: str) -> tuple[int, Any]:
    async with session.post(url, json=body, headers=headers) as reply:
        text = await reply.text()
        return reply.status, json.loads(text) if reply.content_type == "application/json" else text


async def _until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def _drain(reply: aiohttp.ClientResponse, seen: list[bytes]) -> None:
    async for chunk in reply.content.iter_any():
        seen.append(chunk)


async def _metric(session: aiohttp.ClientSession, engine: StandInEngine, name: str) -> float:
    async with session.get(f"{engine.url}/metrics") as reply:
        lines = (await reply.text()).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def _data(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def test_tells_as_little_as_stock_vllm(session: aiohttp.ClientSession) -> None:
    """By default usage has no cached tokens and streams have no usage, though the cache is hit."""
    async with StandInEngine(Options(decode_rate=1000)) as engine:
        url = f"{engine.url}/v1/completions"
        _, cold = await _post(session, url, {"prompt": LONG, "max_tokens": 2})
        _, warm = await _post(session, url, {"prompt": LONG, "max_tokens": 2})
        _, stream = await _post(session, url, {"prompt": LONG, "max_tokens": 2, "stream": True})
        assert warm["usage"]["prompt_tokens_details"] is None
        assert warm["choices"][0]["text"] == cold["choices"][0]["text"]
        assert "usage" not in stream
        assert engine.hit_tokens > 0
        assert await _metric(session, engine, "vllm:prefix_cache_hits_total") == engine.hit_tokens
        assert await _metric(session, engine, "vllm:prompt_tokens_cached_total") == engine.hit_tokens
        assert await _metric(session, engine, "vllm:request_prefill_kv_computed_tokens_sum") == (
            engine.queried_tokens - engine.hit_tokens
        )


async def test_flags_make_it_talk(session: aiohttp.ClientSession) -> None:
    """--enable-prompt-tokens-details and --enable-force-include-usage put cached tokens into every stream."""
    options = Options(decode_rate=1000, enable_prompt_tokens_details=True, enable_force_include_usage=True)
    async with StandInEngine(options) as engine:
        url = f"{engine.url}/v1/completions"
        await _post(session, url, {"prompt": LONG, "max_tokens": 2})
        _, text = await _post(session, url, {"prompt": LONG, "max_tokens": 2, "stream": True})
        usage = _data(text)[-1]["usage"]
        assert usage["completion_tokens"] == 2
        assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


async def test_tokenize_counts_as_usage_does(session: aiohttp.ClientSession) -> None:
    """/tokenize and usage agree, for prompts and for chats."""
    async with StandInEngine(Options(decode_rate=1000)) as engine:
        chat = {"messages": [{"role": "user", "content": LONG}], "max_tokens": 1}
        for path, body in (("completions", {"prompt": LONG, "max_tokens": 1}), ("chat/completions", chat)):
            _, reply = await _post(session, f"{engine.url}/v1/{path}", body)
            _, counted = await _post(session, f"{engine.url}/tokenize", body)
            assert counted["count"] == reply["usage"]["prompt_tokens"]


async def test_prefill_takes_its_time_and_queues_form(session: aiohttp.ClientSession) -> None:
    """At 10,000 tokens a second a cold prompt of about 4,000 tokens takes 0.4 s, behind another one twice that."""
    async with StandInEngine(Options(prefill_rate=10_000, decode_rate=1000)) as engine:
        url = f"{engine.url}/v1/completions"
        prompts = [[start + index for index in range(4000)] for start in (100, 20_000)]
        await asyncio.gather(*(_post(session, url, {"prompt": prompt, "max_tokens": 1}) for prompt in prompts))
        total = await _metric(session, engine, "vllm:time_to_first_token_seconds_sum")
        assert 0.4 + 0.4 < total < 0.4 + 0.9


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot(session: aiohttp.ClientSession, stream: bool) -> None:
    """Disconnecting aborts the request, streaming or not, and nothing stays pinned."""
    async with StandInEngine(Options(decode_rate=50)) as engine:
        body = {"prompt": LONG, "max_tokens": 5000, "stream": stream}
        asking = asyncio.create_task(_post(session, f"{engine.url}/v1/completions", body))
        await _until(lambda: engine.running == 1)
        asking.cancel()
        await _until(lambda: engine.running == 0)
        await _until(lambda: engine.aborted == 1)
        assert engine.service.ranks[0].live.engine.kv_usage == 0


async def test_n_and_several_prompts_are_several_choices(session: aiohttp.ClientSession) -> None:
    """Two prompts with n=2 give four choices in order, and usage counts each prompt once."""
    async with StandInEngine(Options(decode_rate=1000)) as engine:
        url = f"{engine.url}/v1/completions"
        body = {"prompt": [[5] * 10, [6] * 20], "n": 2, "max_tokens": 3}
        _, reply = await _post(session, url, body)
        assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
        assert reply["usage"]["prompt_tokens"] == 30
        assert reply["usage"]["completion_tokens"] == 12
        _, text = await _post(session, url, body | {"stream": True})
        finished = [one["choices"][0]["index"] for one in _data(text) if one["choices"][0]["finish_reason"]]
        assert sorted(finished) == [0, 1, 2, 3]


async def test_adapters_are_models_with_a_cache_of_their_own(session: aiohttp.ClientSession) -> None:
    """A LoRA adapter is listed and served, and does not hit the base model's blocks."""
    async with StandInEngine(Options(loras=("ad",), decode_rate=1000)) as engine:
        async with session.get(f"{engine.url}/v1/models") as reply:
            assert [model["id"] for model in (await reply.json())["data"]] == ["mock", "ad"]
        for model in ("mock", "ad"):
            status, _ = await _post(
                session, f"{engine.url}/v1/completions", {"model": model, "prompt": LONG, "max_tokens": 1}
            )
            assert status == 200
        assert engine.hit_tokens == 0


async def test_responses_can_be_continued_where_they_were_made(session: aiohttp.ClientSession) -> None:
    """`previous_response_id` brings the conversation along; an engine that did not make it answers 404."""
    async with StandInEngine(Options(decode_rate=1000)) as engine, StandInEngine() as other:
        _, first = await _post(session, f"{engine.url}/v1/responses", {"input": LONG, "max_output_tokens": 4})
        follow = {"input": "and?", "previous_response_id": first["id"], "max_output_tokens": 2}
        _, second = await _post(session, f"{engine.url}/v1/responses", follow)
        assert second["usage"]["input_tokens"] > first["usage"]["total_tokens"]
        status, _ = await _post(session, f"{other.url}/v1/responses", follow)
        assert status == 404
        async with session.get(f"{engine.url}/v1/responses/{first['id']}") as reply:
            assert (await reply.json())["output"] == first["output"]
        async with session.get(f"{other.url}/v1/responses/{first['id']}") as reply:
            assert reply.status == 404


async def test_responses_streams_open_before_there_is_output(session: aiohttp.ClientSession) -> None:
    """`response.created` and `response.in_progress` come at once; the message begins with its first token."""
    async with StandInEngine(Options(decode_rate=1000)) as engine:
        url = f"{engine.url}/v1/responses"
        await _post(session, f"{engine.url}/pause", {})
        body = {"input": "hi", "max_output_tokens": 2, "stream": True}
        async with session.post(url, json=body) as reply, asyncio.timeout(5):
            opening = (await reply.content.readuntil(b"\n\n") + await reply.content.readuntil(b"\n\n")).decode()
            assert [one["type"] for one in _data(opening)] == ["response.created", "response.in_progress"]
            await _post(session, f"{engine.url}/resume", {})
            rest = (await reply.content.read()).decode()
        assert [one["type"] for one in _data(rest)] == [
            "response.output_item.added", "response.content_part.added",
            "response.output_text.delta", "response.output_text.delta", "response.output_text.done",
            "response.content_part.done", "response.output_item.done", "response.completed",
        ]  # fmt: skip


async def test_messages_stream_in_the_anthropic_shape(session: aiohttp.ClientSession) -> None:
    """A message starts, its one block fills token by token, and it stops."""
    async with StandInEngine(Options(decode_rate=1000)) as engine:
        body = {"messages": [{"role": "user", "content": "hi"}], "system": "be kind", "max_tokens": 2, "stream": True}
        _, text = await _post(session, f"{engine.url}/v1/messages", body)
        assert [one["type"] for one in _data(text)] == [
            "message_start", "content_block_start", "content_block_delta", "content_block_delta",
            "content_block_stop", "message_delta", "message_stop",
        ]  # fmt: skip


async def test_ordered_faults_happen_once(session: aiohttp.ClientSession) -> None:
    """An ordered 500, a cut before the head and a cut in mid-stream each hit one request; then all is well."""
    async with StandInEngine(Options(decode_rate=1000)) as engine:
        url, body = f"{engine.url}/v1/completions", {"prompt": "x", "max_tokens": 5, "stream": True}
        engine.faults.fail_next(503)
        status, error = await _post(session, url, body)
        assert (status, error["error"]["code"]) == (503, 503)
        engine.faults.cut_next()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await _post(session, url, body)
        engine.faults.cut_next(after_events=2)
        seen: list[bytes] = []
        async with session.post(url, json=body) as reply:
            with pytest.raises(aiohttp.ClientPayloadError):
                await _drain(reply, seen)
        assert b"".join(seen).count(b"data: ") == 2
        status, _ = await _post(session, url, body)
        assert status == 200
        assert engine.requests_seen == 4
        assert engine.faults.served == 3


async def test_a_restart_is_a_fresh_engine_in_the_same_place(session: aiohttp.ClientSession) -> None:
    """After stop and start the port is the same, the cache cold and the counters are at zero."""
    engine = StandInEngine(Options(decode_rate=1000))
    await engine.start()
    url = f"{engine.url}/v1/completions"
    await _post(session, url, {"prompt": LONG, "max_tokens": 1})
    await engine.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await _post(session, url, {"prompt": LONG, "max_tokens": 1})
    await engine.start()
    await _post(session, url, {"prompt": LONG, "max_tokens": 1})
    assert engine.requests_seen == 1
    assert engine.hit_tokens == 0
    await engine.stop()


async def test_a_key_is_demanded_where_one_is_set(session: aiohttp.ClientSession) -> None:
    """With an API key `/v1` answers 401 without it; health and metrics need none."""
    async with StandInEngine(Options(api_key="k", decode_rate=1000)) as engine:
        url = f"{engine.url}/v1/completions"
        assert (await _post(session, url, {"prompt": "x"}))[0] == 401
        assert (await _post(session, url, {"prompt": "x"}, Authorization="Bearer k"))[0] == 200
        async with session.get(f"{engine.url}/health") as reply:
            assert reply.status == 200


async def test_connections_are_refused_while_it_starts(session: aiohttp.ClientSession) -> None:
    """During its start-up time it has its port but does not listen; then it serves."""

    async def healthy() -> bool:
        try:
            async with session.get(f"{engine.url}/health") as reply:
                return reply.status == 200
        except aiohttp.ClientConnectorError:
            return False

    async with StandInEngine(Options(startup_seconds=0.2)) as engine:
        assert not await healthy()
        async with asyncio.timeout(5):
            while not await healthy():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    async with StandInEngine(Options(startup_seconds=60)) as engine:
        assert not await healthy()


async def test_listens_on_ipv6(session: aiohttp.ClientSession) -> None:
    """A numeric IPv6 host works, events included; the URL has it in brackets."""
    async with StandInEngine(Options(host="::1", events_port=0)) as engine:
        assert engine.url.startswith("http://[::1]:")
        assert (await _post(session, f"{engine.url}/v1/completions", {"prompt": "x", "max_tokens": 1}))[0] == 200


async def test_running_and_waiting_are_told_while_they_last(session: aiohttp.ClientSession) -> None:
    """With one slot, a second request waits; both gauges say so; a paused engine hangs its requests until resumed."""
    async with StandInEngine(Options(max_num_seqs=1, decode_rate=20)) as engine:
        url = f"{engine.url}/v1/completions"
        asking = [asyncio.create_task(_post(session, url, {"prompt": "x", "max_tokens": 4})) for _ in range(2)]
        await _until(lambda: engine.running == 1 and engine.waiting == 1)
        await _post(session, f"{engine.url}/pause", {})
        assert await _metric(session, engine, "vllm:num_requests_running") == 1
        assert await _metric(session, engine, "vllm:num_requests_waiting") == 1
        await _post(session, f"{engine.url}/resume", {})
        assert [status for status, _ in await asyncio.gather(*asking)] == [200, 200]


async def test_a_half_closed_connection_is_dropped_without_a_reply() -> None:
    """As vLLM's server does, the stand-in drops a client that has closed its sending side."""
    async with StandInEngine(Options(decode_rate=20)) as engine:
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        body = json.dumps({"prompt": "x", "max_tokens": 100}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await _until(lambda: engine.running == 1)
        writer.write_eof()
        assert await reader.read() == b""
        await _until(lambda: engine.aborted == 1)
        writer.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": "hi"}),
        ("/v1/chat/completions", {"messages": ["hi"]}),
        ("/v1/completions", {"prompt": [[]]}),
        ("/v1/completions", {"prompt": ["", "x"]}),
        ("/v1/completions", {"prompt": [1, "x"]}),
        ("/v1/completions", {"prompt": {"a": 1}}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {}),
        ("/tokenize", {"messages": 5}),
        ("/detokenize", {}),
    ],
)
async def test_nonsense_is_answered_400(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> None:
    """Fields of a wrong type get vLLM's error shape, never a 500."""
    async with StandInEngine(Options(decode_rate=1000)) as engine:
        status, reply = await _post(session, engine.url + path, body)
        assert status == 400
        assert set(reply["error"]) == {"message", "type", "param", "code"}


async def test_ranks_are_engines_of_their_own(session: aiohttp.ClientSession) -> None:
    """A header picks the rank; its cache, metrics, events and ports are its own, and idle ranks are used in turn."""
    ports = free_ports(1)[0]
    options = Options(data_parallel_size=2, decode_rate=1000, events_port=ports, replay_port=ports + 10)
    async with StandInEngine(options) as engine:
        url = f"{engine.url}/v1/completions"
        body = {"prompt": LONG, "max_tokens": 2}
        for _ in range(2):
            await _post(session, url, body, **{"X-data-parallel-rank": "1"})
        first, second = (rank.live.engine.totals for rank in engine.service.ranks)
        assert (first.queried_tokens, second.hit_tokens > 0) == (0, True)
        status, refused = await _post(session, url, body, **{"X-data-parallel-rank": "2"})
        assert status == 400
        assert "out of range [0, 2)" in refused["error"]["message"]
        for _ in range(2):
            await _post(session, url, body)
        assert [rank.requests for rank in engine.service.ranks] == [2, 2]
        async with session.get(f"{engine.url}/metrics") as reply:
            readings = parse_metrics(await reply.read())
        assert [reading.rank for reading in readings] == [0, 1]
        async with session.get(f"{engine.url}/kv_event_sources") as reply:
            sources = await reply.json()
        assert [source["endpoint"] for source in sources.values()] == [f"tcp://*:{ports}", f"tcp://*:{ports + 1}"]
        assert sources["1"]["replay_endpoint"] == f"tcp://*:{ports + 11}"
