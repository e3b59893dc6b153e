"""KV events as vLLM publishes them: the msgpack maps, the three ZMQ frames, and the replay of what was sent."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec
import zmq
import zmq.asyncio

from kvroute.router.testing.work import Content
from kvroute.simulator.engine.step import Change, Removed, Stored

BUFFERED_BATCHES = 10_000
"""How far back a replay reaches, as in vLLM."""
END_OF_REPLAY = b"\xff" * 8

Hash: TypeAlias = int | bytes


class _Event(msgspec.Struct, tag_field="type"):
    pass


class BlockStored(_Event, tag="BlockStored", kw_only=True):
    """Blocks that are cached from now on. Fields stand in vLLM's order."""

    block_hashes: list[Hash]
    parent_block_hash: Hash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = "GPU"
    lora_name: str | None = None
    extra_keys: list[list[str] | None] | None = None
    group_idx: int | None = 0
    kv_cache_spec_kind: str | None = "full_attention"
    session_id: str | msgspec.UnsetType = msgspec.UNSET


class BlockRemoved(_Event, tag="BlockRemoved", kw_only=True):
    """Blocks that were evicted."""

    block_hashes: list[Hash]
    medium: str | None = "GPU"
    group_idx: int | None = 0


class AllBlocksCleared(_Event, tag="AllBlocksCleared"):
    """The whole cache was forgotten."""


Event: TypeAlias = BlockStored | BlockRemoved | AllBlocksCleared


class Batch(msgspec.Struct, array_like=True):
    """One payload."""

    ts: float
    events: list[Event]
    data_parallel_rank: int | None = 0


encode_batch = msgspec.msgpack.Encoder().encode
decode_batch = msgspec.msgpack.Decoder(Batch).decode


def wire_event(change: Change, block_size: int, lora_ids: dict[str, int]) -> Event:
    """A change of the cache as it goes over the wire."""
    if isinstance(change, Removed):
        return BlockRemoved(block_hashes=[change.key])
    if not isinstance(change, Stored):
        return AllBlocksCleared()
    content = change.sequence.request.content
    assert isinstance(content, Content)
    first, last = change.first, change.first + change.count
    keys = content.keys
    return BlockStored(
        block_hashes=list(keys[first:last]),
        parent_block_hash=keys[first - 1] if first else None,
        token_ids=content.tokens[first * block_size : last * block_size],
        block_size=block_size,
        lora_id=lora_ids.get(content.lora) if content.lora else None,
        lora_name=content.lora,
        extra_keys=[_extra(content, index) for index in range(first, last)],
        session_id=content.session if content.session is not None else msgspec.UNSET,
    )


def _extra(content: Content, block: int) -> list[str] | None:
    extra = [content.lora] if content.lora else []
    if block == 0 and content.salt:
        extra.append(content.salt)
    return extra or None


class Publisher:
    """A PUB socket for event batches and, if asked, a ROUTER socket that replays them."""

    def __init__(
        self,
        host: str,
        events_port: int,
        replay_port: int | None,
        topic: str,
        clock: Callable[[], float] = time.time,
        *,
        rank: int = 0,
    ) -> None:
        self._context = zmq.asyncio.Context()
        self._topic = topic.encode()
        self._clock = clock
        self._rank = rank
        self._sequence = 0
        self._sent: deque[tuple[bytes, bytes]] = deque(maxlen=BUFFERED_BATCHES)
        self._events: zmq.Socket[bytes] = zmq.Context(self._context).socket(zmq.PUB)
        self._events.set_hwm(100_000)
        self.events_port = _bind(self._events, host, events_port)
        self.replay_port: int | None = None
        self._replaying: asyncio.Task[None] | None = None
        if replay_port is not None:
            self._replay = self._context.socket(zmq.ROUTER)
            self.replay_port = _bind(self._replay, host, replay_port)
            self._replaying = asyncio.create_task(self._answer_replays())

    def publish(self, events: Iterable[Event]) -> None:
        """Send one batch; nothing if there are no events."""
        batch = Batch(self._clock(), list(events), self._rank)
        if not batch.events:
            return
        sequence = self._sequence.to_bytes(8, "big")
        payload = encode_batch(batch)
        self._sequence += 1
        self._sent.append((sequence, payload))
        self._events.send_multipart((self._topic, sequence, payload))

    async def close(self) -> None:
        """Unbind both sockets."""
        if self._replaying is not None:
            self._replaying.cancel()
            await asyncio.gather(self._replaying, return_exceptions=True)
            self._replay.close(linger=0)
        self._events.close(linger=0)
        self._context.term()

    async def _answer_replays(self) -> None:
        while True:
            frames = await self._replay.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                continue
            client = frames[0]
            start = frames[2]
            for sequence, payload in tuple(self._sent):
                if sequence >= start:
                    await self._replay.send_multipart((client, b"", self._topic, sequence, payload))
            await self._replay.send_multipart((client, b"", b"", END_OF_REPLAY, b""))


def _bind(socket: zmq.Socket[bytes] | zmq.asyncio.Socket, host: str, port: int) -> int:
    if ":" in host:
        socket.setsockopt(zmq.IPV6, 1)
        host = f"[{host}]"
    if port:
        socket.bind(f"tcp://{host}:{port}")
        return port
    return socket.bind_to_random_port(f"tcp://{host}")
