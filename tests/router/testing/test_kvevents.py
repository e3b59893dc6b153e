"""KV events: the same bytes as vLLM's, and the sockets that carry and replay them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import zmq
import zmq.asyncio

from kvroute.router.testing.kvevents import (
    END_OF_REPLAY,
    AllBlocksCleared,
    BlockStored,
    decode_batch,
    encode_batch,
)
from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options

CAPTURES = Path(__file__).parents[4] / "shared" / "data" / "vllm_captures"


def _frames() -> Iterator[tuple[str, list[bytes]]]:
    for path in sorted(CAPTURES.glob("*.jsonl")) if CAPTURES.exists() else ():
        for line in path.read_text().splitlines():
            told: dict[str, Any] = json.loads(line)
            if told["kind"] == "event":
                yield path.name, [bytes.fromhex(frame) for frame in told["frames"]]


@pytest.mark.skipif(not CAPTURES.exists(), reason="the captures are not here")
def test_every_captured_batch_is_encoded_to_the_same_bytes() -> None:
    """Decoding a captured payload and encoding it again changes no byte: order, widths and nils are vLLM's."""
    seen: set[str] = set()
    for name, (_, sequence, payload) in _frames():
        batch = decode_batch(payload)
        assert encode_batch(batch) == payload, f"{name} {int.from_bytes(sequence, 'big')}"
        seen.update(type(event).__name__ for event in batch.events)
    assert seen == {"BlockStored", "BlockRemoved", "AllBlocksCleared"}


def _subscriber(context: zmq.asyncio.Context, port: int | None, topic: str) -> zmq.asyncio.Socket:
    socket = context.socket(zmq.SUB)
    socket.setsockopt_string(zmq.SUBSCRIBE, topic)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    socket.connect(f"tcp://127.0.0.1:{port}")
    return socket


async def _complete(session: aiohttp.ClientSession, engine: StandInEngine, **fields: object) -> dict[str, Any]:
    async with session.post(f"{engine.url}/v1/completions", json=fields) as reply:
        assert reply.status == 200
        body: dict[str, Any] = await reply.json()
        return body


async def _replay(context: zmq.asyncio.Context, port: int | None, start: int) -> list[list[bytes]]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    socket.connect(f"tcp://127.0.0.1:{port}")
    try:
        await socket.send_multipart([b"", start.to_bytes(8, "big")])
        frames = [await socket.recv_multipart()]
        while frames[-1][2] != END_OF_REPLAY:
            frames.append(await socket.recv_multipart())
        return frames
    finally:
        socket.close(linger=0)


@pytest.fixture
def context() -> Iterator[zmq.asyncio.Context]:
    made = zmq.asyncio.Context()
    yield made
    made.destroy(linger=0)


async def test_a_prompt_is_published_in_three_frames_and_replayed(context: zmq.asyncio.Context) -> None:
    """Subscribers get topic, sequence and payload; a replay repeats them from any number on and ends with its mark."""
    options = Options(block_size=4, events_port=0, replay_port=0, events_topic="kv@a", loras=("ad",))
    async with StandInEngine(options) as engine, aiohttp.ClientSession() as session:
        publisher = engine.service.ranks[0].publisher
        assert publisher is not None
        await _complete(session, engine, prompt=list(range(100, 106)), max_tokens=3)
        await _complete(session, engine, prompt=list(range(100, 108)), max_tokens=1, model="ad", cache_salt="s")
        frames = await _replay(context, publisher.replay_port, 0)
        assert frames[-1] == [b"", b"", END_OF_REPLAY, b""]
        assert [frame[:3] for frame in frames[:-1]] == [[b"", b"kv@a", n.to_bytes(8, "big")] for n in range(3)]
        prompt, output, salted = (decode_batch(frame[3]).events[0] for frame in frames[:-1])
        assert isinstance(prompt, BlockStored)
        assert prompt.token_ids == [100, 101, 102, 103]
        assert prompt.parent_block_hash is None
        assert isinstance(output, BlockStored)
        assert output.token_ids[:2] == [104, 105]
        assert output.parent_block_hash == prompt.block_hashes[0]
        assert isinstance(salted, BlockStored)
        assert (salted.lora_id, salted.lora_name) == (1, "ad")
        assert salted.extra_keys == [["ad", "s"], ["ad"]]
        assert salted.block_hashes[0] != prompt.block_hashes[0]
        assert len(await _replay(context, publisher.replay_port, 2)) == 2
        assert len(await _replay(context, publisher.replay_port, 1000)) == 1


async def test_subscribers_see_what_is_published(context: zmq.asyncio.Context) -> None:
    """A live subscriber gets the batch of a request; sequence numbers go up by one."""
    async with StandInEngine(Options(block_size=4, events_port=0)) as engine, aiohttp.ClientSession() as session:
        publisher = engine.service.ranks[0].publisher
        assert publisher is not None
        subscriber = _subscriber(context, publisher.events_port, "")
        frames: list[bytes] = []
        for number in range(100):
            await _complete(session, engine, prompt=[number] * 4, max_tokens=1)
            if await subscriber.poll(20):
                frames = await subscriber.recv_multipart()
                break
        subscriber.close(linger=0)
        topic, sequence, payload = frames
        assert topic == b""
        (event,) = decode_batch(payload).events
        assert isinstance(event, BlockStored)
        assert event.token_ids == [int.from_bytes(sequence, "big")] * 4


async def test_a_reset_is_told_with_the_next_step_only(context: zmq.asyncio.Context) -> None:
    """An idle engine that forgot its cache says so in the batch of the next request."""
    options = Options(block_size=4, events_port=0, replay_port=0)
    async with StandInEngine(options) as engine, aiohttp.ClientSession() as session:
        publisher = engine.service.ranks[0].publisher
        assert publisher is not None
        await _complete(session, engine, prompt=[1] * 9, max_tokens=1)
        async with session.post(f"{engine.url}/reset_prefix_cache") as reply:
            assert await reply.json() == {"success": True}
        assert len(await _replay(context, publisher.replay_port, 1)) == 1
        await _complete(session, engine, prompt=[1] * 9, max_tokens=1)
        batch = decode_batch((await _replay(context, publisher.replay_port, 1))[0][3])
        assert isinstance(batch.events[0], AllBlocksCleared)
        assert isinstance(batch.events[1], BlockStored)


async def test_the_full_report_repeats_what_was_hit(context: zmq.asyncio.Context) -> None:
    """`kv_cache_report_mode: full` announces cached blocks again, with the session that asked."""
    options = Options(block_size=4, events_port=0, replay_port=0)
    async with StandInEngine(options) as engine, aiohttp.ClientSession() as session:
        publisher = engine.service.ranks[0].publisher
        assert publisher is not None
        prompt = list(range(50, 59))
        await _complete(session, engine, prompt=prompt, max_tokens=1)
        await _complete(session, engine, prompt=prompt, max_tokens=1)
        full = {"kv_cache_report_mode": "full"}
        await _complete(session, engine, prompt=prompt, max_tokens=1, session_id="s", vllm_xargs=full)
        frames = await _replay(context, publisher.replay_port, 0)
        assert len(frames) == 3
        (event,) = decode_batch(frames[1][3]).events
        assert isinstance(event, BlockStored)
        assert event.token_ids == prompt[:8]
        assert event.session_id == "s"
