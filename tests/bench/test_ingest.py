"""The benchmark of taking in KV events: its payloads are of the recorded shape, and it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import msgspec
import pytest

from bench import ingest
from bench.publisher import batches
from tests.router.captures import CAPTURES


def _shape(payload: bytes) -> dict[str, list[str]]:
    """Field names of each kind of event, in order."""
    _, events, _ = msgspec.msgpack.decode(payload)
    return {event["type"]: list(event) for event in events}


@pytest.mark.skipif(not CAPTURES.exists(), reason="the recorded events are not here (../shared/data/vllm_captures)")
def test_the_payloads_are_of_the_recorded_shape() -> None:
    """The same fields in the same order as the engine sends them."""
    recorded: dict[str, list[str]] = {}
    for line in (CAPTURES / "dup_blocks_evict300.jsonl").read_text().splitlines():
        told: dict[str, Any] = json.loads(line)
        if told["kind"] == "event":
            recorded |= _shape(bytes.fromhex(told["frames"][2]))
    ours = _shape(list(batches(101, 4, True))[100])
    assert set(ours) == {"BlockStored", "BlockRemoved"}
    for kind, fields in ours.items():
        assert recorded[kind] == fields


def test_a_small_run_through_the_wire() -> None:
    """All batches arrive on credit, and what they cost adds up."""
    cost = ingest.measure(4, "turnover", 4 * 300, rounds=1)
    assert cost.per_second > 0
    assert cost.zmq > 0
    (line, *_) = (line for line in ingest.lines({"costs": [asdict(cost)], "stalls": []}) if "turnover" in line)
    assert line.split()[0] == "4"
