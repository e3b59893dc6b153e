"""Rendered prompts agree with token ids that a running engine told for the same bodies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest

from kvroute.router import parse
from kvroute.router.knowledge.tokens import templates
from kvroute.router.knowledge.tokens.renderer import Renderer
from tests.router.captures import CAPTURES

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""In the manner of the recorded model's."""

TURNS = {"<|im_start|>": 1, "<|im_end|>": 2}
"""Its special tokens."""

RENDERED = {
    "/v1/chat/completions/render": "/v1/chat/completions",
    "/v1/responses/render": "/v1/responses",
    "/v1/messages/render": "/v1/messages",
    "/tokenize": "/v1/chat/completions",
}
"""Recorded paths that tell ids -> the path whose bodies they take."""


def recorded() -> Iterator[tuple[str, dict[str, Any], list[int]]]:
    """Path, body and token ids of every chat whose ids the engine told."""
    request: dict[str, Any] = {}
    for name in ("scaleout.jsonl", "http_surface.jsonl"):
        for line in (CAPTURES / name).read_text().splitlines():
            entry = json.loads(line)
            if entry["kind"] == "request":
                request = entry
            elif entry["kind"] == "response" and request.get("path") in RENDERED and entry["status"] == 200:
                ids = entry["body"].get("token_ids") or entry["body"].get("tokens")
                if "messages" in request["body"] or "input" in request["body"]:
                    yield RENDERED[request["path"]], request["body"], ids


def stretches(text: str) -> list[str]:
    """The text between special tokens, and these."""
    return [part for part in re.split("(" + "|".join(map(re.escape, TURNS)) + ")", text) if part]


def runs(ids: list[int]) -> list[tuple[int, ...]]:
    """The ids between special tokens, and these."""
    special = set(TURNS.values())
    return [
        part
        for turns, group in groupby(ids, special.__contains__)
        for part in ([(one,) for one in group] if turns else [tuple(group)])
    ]


def test_ids_stand_where_the_text_does() -> None:
    """Special tokens stand in the same places, and equal texts between them are equal ids, in all recordings."""
    if not (CAPTURES / "scaleout.jsonl").exists():
        pytest.skip("the recorded engine exchanges are not here (../shared/data/vllm_captures)")
    renderer = Renderer(templates.of(TEMPLATE, {"eos_token": "<|im_end|>"}))
    meaning: dict[str, tuple[int, ...]] = {text: (one,) for text, one in TURNS.items()}
    compared = 0
    for path, body, ids in recorded():
        rendered = renderer.render(parse.parse(path.encode(), json.dumps(body).encode()))
        assert rendered.whole
        for text, run in zip(stretches(rendered.text), runs(ids), strict=True):
            assert meaning.setdefault(text, run) == run
        compared += 1
    assert compared >= 5
    assert len(set(meaning.values())) == len(meaning)
