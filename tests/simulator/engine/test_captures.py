"""The engine model against real vLLM: the same requests must store and evict the same blocks, batch by batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvroute.router.testing.blockkeys import chain
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest, Sequence
from kvroute.simulator.engine.step import Cleared, Removed, Step, Stored
from kvroute.simulator.engine.steptime import from_rates
from kvroute.simulator.engine.stepwise import Engine

CAPTURES = Path(__file__).parents[4] / "shared" / "data" / "vllm_captures"
BLOCK = 32


def _capture(name: str) -> list[dict[str, Any]]:
    path = CAPTURES / name
    if not path.exists():
        pytest.skip(f"the capture {name} is not here")
    return [json.loads(line) for line in path.read_text().splitlines()]


class _Twin:
    """Runs captured requests on the model and keeps what it announced, in vLLM's batches."""

    def __init__(self, blocks: int, budget: int = 2048) -> None:
        limits = Limits(blocks=blocks, block_size=BLOCK, max_num_batched_tokens=budget)
        self.engine = Engine(limits, from_rates(1e4, 1e2))
        self.batches: list[list[tuple[str, list[int], int | None]]] = []
        self.keys: dict[str, list[int]] = {}
        self.now = 0.0

    def add(self, request: dict[str, Any]) -> None:
        body = request["body"]
        prompt = body["prompt"]
        output = [7] * body["max_tokens"]
        keys = chain(prompt + output, BLOCK, None, body.get("cache_salt"))
        made = EngineRequest(str(request["id"]), len(prompt), len(output), keys)
        self.engine.add(made, self.now)

    def step(self) -> None:
        self.now = max(self.now, self.engine.next_event_time())
        for step in self.engine.advance(self.now):
            self._keep(step)

    def run(self) -> None:
        while self.engine.running or self.engine.waiting:
            self.step()

    def _keep(self, step: Step) -> None:
        batch: list[tuple[str, list[int], int | None]] = []
        for change in step.changes:
            if isinstance(change, Removed):
                batch.append(("BlockRemoved", [change.key], None))
            elif isinstance(change, Cleared):
                batch.append(("AllBlocksCleared", [], None))
            else:
                keys, first = change.sequence.request.keys, change.first
                parent = keys[first - 1] if first else None
                batch.append(("BlockStored", list(keys[first : first + change.count]), parent))
        if batch:
            self.batches.append(batch)


def _assert_same(captured: list[dict[str, Any]], batches: list[list[tuple[str, list[int], int | None]]]) -> None:
    """Same batches of the same events on the same blocks, whatever the blocks are called."""
    names: dict[object, int] = {}
    for number, (event, ours) in enumerate(zip(captured, batches, strict=True)):
        theirs = event["decoded"][1]
        assert [one["type"] for one in theirs] == [kind for kind, _, _ in ours], f"batch {number}"
        for one, (_, keys, parent) in zip(theirs, ours, strict=True):
            hashes = [json.dumps(value) for value in one.get("block_hashes", [])]
            assert len(hashes) == len(keys), f"batch {number}"
            if one["type"] == "BlockStored":
                for name, key in zip(hashes, keys, strict=True):
                    assert names.setdefault(name, key) == key, f"batch {number}"
                known = one["parent_block_hash"]
                assert (None if known is None else names[json.dumps(known)]) == parent, f"batch {number}"
            else:
                assert [names[name] for name in hashes] == keys, f"batch {number}"


def _requests(capture: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (line for line in capture if line["kind"] == "request" and "prompt" in (line["body"] or {}))


def test_copies_of_a_block_and_their_eviction_are_those_of_the_real_engine() -> None:
    """A prompt of exactly three blocks stores its last block at each repeat, and each copy is evicted on its own."""
    capture = _capture("dup_blocks_evict300.jsonl")
    twin = _Twin(300, budget=4096)
    for request in _requests(capture):
        twin.add(request)
        twin.run()
    _assert_same([line for line in capture if line["kind"] == "event"], twin.batches)


def test_eviction_salt_and_preemption_are_those_of_the_real_engine() -> None:
    """A cache of 40 blocks: eviction order, salted prompts, four sequences that preempt each other, and a reset."""
    capture = _capture("sha256_cbor_bytes_seed42_evict40.jsonl")
    twin = _Twin(40)
    crowd = [request for request in _requests(capture) if request["name"].startswith("preempt")]
    alone = [request for request in _requests(capture) if not request["name"].startswith("preempt")]
    for request in alone[:-1]:
        twin.add(request)
        twin.run()
    twin.add(crowd[0])
    twin.engine.advance(twin.now)
    for request in crowd[1:]:
        twin.add(request)
    twin.run()
    assert twin.engine.totals.preemptions > 0
    assert twin.engine.reset_cache()
    twin.add(alone[-1])
    twin.run()
    _assert_same([line for line in capture if line["kind"] == "event"], twin.batches)


def test_stored_is_told_of_a_sequence() -> None:
    """`Stored` names the sequence whose keys it covers, so that the publisher finds its tokens."""
    engine = Engine(Limits(blocks=9, block_size=4), from_rates(1e4, 1e2))
    sequence = engine.add(EngineRequest("a", 9, 1, (1, 2)), 0.0)
    (step,) = engine.advance(1.0)
    assert step.changes == [Stored(sequence, 0, 2)]
    assert isinstance(sequence, Sequence)
