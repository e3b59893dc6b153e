"""The stand-in's HTTP surface against what real vLLM answered: every captured request, asked again."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options

CAPTURE = Path(__file__).parents[4] / "shared" / "data" / "vllm_captures" / "http_surface.jsonl"
pytestmark = pytest.mark.skipif(not CAPTURE.exists(), reason="the capture http_surface.jsonl is not here")

OUT_OF_SCOPE: dict[str, str] = {}
"""Captured requests that the stand-in answers otherwise, with the reason."""
WORDED_OTHERWISE = {"big-body-20MB": "it counts with the longest token of the vocabulary, which is another here"}
"""Captured errors whose message differs, with the reason."""
OPTIONS = Options(
    model="tiny",
    block_size=32,
    kv_blocks=32768,
    max_model_len=8192,
    decode_rate=2000.0,
    prefill_rate=1e6,
    events_port=0,
    replay_port=0,
    events_topic="kv@127.0.0.1:8102@tiny",
    enable_prompt_tokens_details=True,
    enable_request_id_headers=True,
)


_TOLD = ("object", "type", "role", "finish_reason", "stop_reason", "status", "param", "detail", "message", "reason")
"""Keys whose text is compared."""


def _exchanges() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    if not CAPTURE.exists():
        return []
    lines = [json.loads(line) for line in CAPTURE.read_text().splitlines()]
    answers = {line["id"]: line for line in lines if line["kind"] == "response"}
    return [(line, answers[line["id"]]) for line in lines if line["kind"] == "request"]


def _shape(value: object, key: str = "") -> object:
    """The structure of a JSON value: keys in order, and of which kind each value is."""
    if isinstance(value, dict):
        return {name: _shape(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_shape(value[0], key)] if value else []
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return "number"
    return value if key in _TOLD else "text"


def _events(lines: list[str]) -> list[object]:
    """The shape of a stream: of each event its lines, equal neighbours (one a token) told once."""
    shapes: list[object] = []
    for block in "".join(lines).split("\n\n"):
        shape = [
            _shape(json.loads(line[6:])) if line.startswith("data: {") else line for line in block.splitlines() if line
        ]
        if shape and (not shapes or shapes[-1] != shape):
            shapes.append(shape)
    return shapes


def _body(request: dict[str, Any]) -> io.BytesIO | None:
    body = request["body"]
    if request["name"] == "big-body-20MB":
        body = body | {"prompt": "a " * 10_000_000}
    if body is None:
        return None
    return io.BytesIO((body if isinstance(body, str) else json.dumps(body)).encode())


async def _ask(session: aiohttp.ClientSession, url: str, request: dict[str, Any]) -> dict[str, Any]:
    headers = dict(request["headers"])
    async with session.request(request["method"], url + request["path"], data=_body(request), headers=headers) as reply:
        text = await reply.text()
        told = {"status": reply.status, "headers": {key.lower(): value for key, value in reply.headers.items()}}
        if reply.content_type == "text/event-stream":
            return told | {"sse": [text]}
        return told | ({"body": json.loads(text)} if reply.content_type == "application/json" else {"text": text})


async def _ask_all() -> dict[str, dict[str, Any]]:
    """The answers to all captured requests, asked in their order; the one sent while paused is left to hang."""
    answers: dict[str, dict[str, Any]] = {}
    async with StandInEngine(OPTIONS) as engine, aiohttp.ClientSession() as session:
        hanging: dict[str, asyncio.Task[dict[str, Any]]] = {}
        for request, _ in _exchanges():
            task = asyncio.create_task(_ask(session, engine.url, request))
            if request["name"].endswith("while-paused") and request["method"] == "POST":
                hanging[request["name"]] = task
            else:
                answers[request["name"]] = await task
                assert request["name"] == "resume" or not any(one.done() for one in hanging.values())
                if request["name"] == "resume":
                    for name in list(hanging):
                        answers[name] = await hanging.pop(name)
    return answers


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    return asyncio.run(_ask_all())


def _content(answer: dict[str, Any]) -> object:
    if "sse" in answer:
        return _events(answer["sse"])
    return _shape(answer["body"]) if "body" in answer else answer["text"]


@pytest.mark.parametrize("pair", [pytest.param(pair, id=pair[0]["name"]) for pair in _exchanges()])
def test_answers_as_the_captured_engine(
    pair: tuple[dict[str, Any], dict[str, Any]], answers: dict[str, dict[str, Any]]
) -> None:
    """Status, content type, JSON structure and the sequence of stream events are those of vLLM."""
    request, theirs = pair
    name = request["name"]
    if name in OUT_OF_SCOPE:
        pytest.skip(OUT_OF_SCOPE[name])
    ours = answers[name]
    assert ours["status"] == theirs["status"]
    for header in ("content-type", "allow"):
        assert ours["headers"].get(header) == theirs["headers"].get(header)
    expected, found = _content(theirs), _content(ours)
    if name in WORDED_OTHERWISE:
        assert isinstance(expected, dict)
        assert isinstance(found, dict)
        expected["error"]["message"] = found["error"]["message"]
    assert found == expected
