"""Keys of token-id prompts equal those of the blocks that the real engine announced for them, as it was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from kvroute.router.core import blocks
from kvroute.router.knowledge.text import Prompt
from kvroute.router.knowledge.tokens.lens import TokenLens
from kvroute.router.knowledge.tokens.renderer import Renderer
from kvroute.router.knowledge.tokens.segments import Segments
from kvroute.router.knowledge.tokens.templates import Templates
from kvroute.router.parse import parse
from tests.router.knowledge.tokens.tokenizers_made import made

CAPTURES = Path(__file__).parents[5] / "shared" / "data" / "vllm_captures"
BLOCK = 32
pytestmark = pytest.mark.skipif(not CAPTURES.exists(), reason="the captures are not here (../shared/data)")


def salt_of(event: dict[str, Any]) -> str | None:
    """The salt stands beside the first block, among keys without a name: here nothing else is a string."""
    first = (event.get("extra_keys") or [None])[0] or []
    return next((key for key in first if isinstance(key, str) and key != event["lora_name"]), None)


@pytest.mark.parametrize("name", ["sha256_int", "xxhash_int"])
def test_keys_of_recorded_prompts(name: str) -> None:
    """Each full block of each prompt was announced by then, and has the key that the lens gives it."""
    lens = TokenLens(Segments(made("bytes")), Renderer(Templates()), BLOCK)
    ours: dict[int, int] = {}
    asked: dict[int, Prompt] = {}
    lines = [json.loads(line) for line in (CAPTURES / f"{name}.jsonl").read_text().splitlines()]
    for line in lines:
        body = line.get("body")
        prompt = body.get("prompt") if line["kind"] == "request" and isinstance(body, dict) else None
        if isinstance(prompt, list) and isinstance(prompt[0], int) and line["path"] == "/v1/completions":
            read = lens.read(parse(b"/v1/completions", orjson.dumps(body)), "tiny", None)
            assert isinstance(read, Prompt)
            assert read.tokens == len(prompt)
            asked[line["id"]] = read
        for event in line["decoded"][1] if line["kind"] == "event" else ():
            if event["type"] == "BlockStored":
                root = blocks.token_root(event["lora_name"], salt_of(event), BLOCK)
                parent = event["parent_block_hash"]
                above = root if parent is None else ours[parent]
                keys = blocks.extend(above, blocks.pack(event["token_ids"]), BLOCK * blocks.TOKEN_BYTES)
                ours.update(zip(event["block_hashes"], keys, strict=True))
    announced = set(ours.values())
    assert len(asked) > 5
    assert sum(len(prompt.keys) for prompt in asked.values()) > 30
    for number, prompt in asked.items():
        assert announced.issuperset(prompt.keys), number
