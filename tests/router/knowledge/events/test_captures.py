"""Every batch that was recorded from the real engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvroute.router.core.changes import Words
from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.events.batch import decode
from kvroute.router.knowledge.events.fields import words
from kvroute.router.knowledge.events.stream import Stream
from tests.router.knowledge.events.naive import NaiveEngine, held, keys_of, word

CAPTURES = Path(__file__).parents[5] / "shared" / "data" / "vllm_captures"
BLOCK = 32
FILES = (
    "dup_blocks_evict300",
    "http_surface",
    "pd_nixl2_decode",
    "pd_nixl2_prefill",
    "scaleout",
    "sha256_cbor_bytes_seed42_evict40",
    "sha256_int",
    "xxhash_int",
)
pytestmark = pytest.mark.skipif(not CAPTURES.exists(), reason="the captures are not here")


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CAPTURES / f"{name}.jsonl").read_text().splitlines()]


def _events(name: str) -> list[tuple[int, bytes, list[dict[str, Any]]]]:
    """(sequence, payload, decoded events) of all batches; hashes in bytes are told as hex there."""
    lines = [line for line in _lines(name) if line["kind"] == "event"]
    return [(line["seq"], bytes.fromhex(line["frames"][2]), line["decoded"][1]) for line in lines]


def _from_the_start(name: str) -> Stream:
    """A stream that goes on where the recording begins: nothing was held before."""
    stream = Stream(0, Observed())
    stream.restore(_events(name)[0][0], 0.0, Source.EXACT)
    return stream


@pytest.mark.parametrize("name", FILES)
def test_all_batches_decode(name: str) -> None:
    """Nothing recorded is refused or unknown, and hashes are those of the recording."""
    for _, payload, told in _events(name):
        batch = decode(payload)
        assert batch.unknown == 0
        assert len(batch.events) == len(told)
        for event, recorded in zip(batch.events, told, strict=True):
            if "block_hashes" in recorded:
                expected = [word(one) for one in recorded["block_hashes"]]
                assert words(event.block_hashes).tolist() == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FILES)
def test_what_is_observed_is_what_a_naive_reading_finds(name: str) -> None:
    """After each batch: the same blocks, as often, under keys that were made of their whole prompts.

    Recordings that begin in the middle have parents which are known to nobody; what follows from them is left out.
    """
    observed = Observed()
    stream = Stream(0, observed)
    events = _events(name)
    stream.restore(events[0][0], 0.0, Source.EXACT)
    naive = NaiveEngine()
    for sequence, payload, told in events:
        stream.live(sequence, payload, 0.0)
        for event in told:
            parent = event.get("parent_block_hash")
            if parent is None or word(parent) in naive.prompts:
                naive.read(event)
        assert held(observed) == naive.held()
    assert stream.source is Source.EXACT
    assert stream.next == events[-1][0] + 1
    if events[0][0] == 0:
        assert stream.counts.orphans == stream.counts.removed_unknown == 0


@pytest.mark.parametrize("name", ["dup_blocks_evict300", "sha256_cbor_bytes_seed42_evict40", "pd_nixl2_decode"])
def test_prompts_have_the_keys_that_the_token_lens_gives_them(name: str) -> None:
    """The keys of every recorded prompt of token ids are among those that its engine told, salted ones too."""
    stored: set[int] = set()

    def note(keys: Words) -> None:
        stored.update(keys.tolist())

    stream = _from_the_start(name)
    stream.on_stored = note
    for sequence, payload, _ in _events(name):
        stream.live(sequence, payload, 0.0)
    bodies = [line["body"] for line in _lines(name) if line["kind"] == "request"]
    prompts = [body for body in bodies if body and isinstance(body.get("prompt"), list)]
    keys = [keys_of(body["prompt"], BLOCK, salt=body.get("cache_salt")) for body in prompts]
    assert sum(map(len, keys)) > 30
    for chain in keys:
        assert stored.issuperset(chain)


def test_text_prompts_have_the_keys_of_their_recorded_tokens() -> None:
    """Where the engine was asked to tokenise a prompt, the keys of those ids are among those that it told."""
    lines = _lines("sha256_int")
    stored: set[int] = set()
    stream = _from_the_start("sha256_int")
    stream.on_stored = lambda keys: stored.update(keys.tolist())
    for sequence, payload, _ in _events("sha256_int"):
        stream.live(sequence, payload, 0.0)
    requests = {line["id"]: line for line in lines if line["kind"] == "request"}
    run = [line["body"]["prompt"] for line in requests.values() if line["path"] == "/v1/completions"]
    asked = [
        (requests[line["id"]]["body"], line["body"])
        for line in lines
        if line["kind"] == "response" and requests[line["id"]]["path"] == "/tokenize"
    ]
    tokens = [reply["tokens"] for body, reply in asked if body.get("prompt") in run]
    assert tokens
    for ids in tokens:
        assert stored.issuperset(keys_of(ids, BLOCK))
