"""Usage found at the end of replies, in every shape that the engine sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.usage import Usage, read
from tests.router.captures import exchanges


@pytest.mark.parametrize(
    ("tail", "usage"),
    [
        (b'{"usage":{"prompt_tokens":6,"completion_tokens":3,"prompt_tokens_details":null}}', Usage(6, 3, None)),
        (
            b'"usage":{"prompt_tokens":6,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}},"x":[1]}',
            Usage(6, 3, 4),
        ),
        (b'"usage":{"input_tokens":5,"output_tokens":2,"input_tokens_details":{"cached_tokens":0}}}', Usage(5, 2, 0)),
        (b'"usage":{"input_tokens":5,"output_tokens":2,"cache_read_input_tokens":16}}', Usage(21, 2, 16)),
        (b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\ndata: [DONE]\n\n', Usage(1, 2, None)),
        (
            b'"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n"usage":{"prompt_tokens":1,"completion_tokens":9}',
            Usage(1, 9, None),
        ),
        (b'"usage":null', None),
        (b'"usage":{"prompt_tokens":6,"total', None),
        (b'"usage":{"prompt_tokens":"6"}', None),
        (b'"content":"\\"usage\\":{\\"prompt_tokens\\":6}"', None),
        (b"", None),
    ],
)  # fmt: skip
def test_shapes(tail: bytes, usage: Usage | None) -> None:
    """The last whole usage object counts; text that looks like one, and one cut off, do not."""
    assert read(tail) == usage


@pytest.mark.parametrize(
    "name", ["completion-stream-usage", "responses", "anthropic-messages", "chat-return_token_ids"]
)
def test_recorded_replies(name: str) -> None:
    """Each API's recorded reply gives its usage."""
    _, response = exchanges()[name]
    body = response.get("body")
    data = json.dumps(body, separators=(",", ":")).encode() if body is not None else _stream(response)
    found = read(data[-8192:])
    assert found is not None
    assert found.prompt > 0
    assert found.completion > 0


def _stream(response: dict[str, Any]) -> bytes:
    return "".join(response["sse"]).encode()


@given(st.binary(max_size=300))
def test_no_tail_raises(tail: bytes) -> None:
    """Whatever a replica sends, looking for usage does no harm."""
    read(b'"usage":' + tail)
