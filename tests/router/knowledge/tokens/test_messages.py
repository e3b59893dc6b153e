"""Anthropic's messages become the chat messages that the engine makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from kvroute.router.knowledge.tokens import messages
from kvroute.router.knowledge.tokens.chat import Chat, Options
from kvroute.router.knowledge.tokens.conversation import Refused

USE = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
PICTURE = {"type": "image", "source": {"type": "url", "url": "http://x"}}


def read(*said: tuple[str, Any], system_first: bool = False, **fields: Any) -> Chat:
    body = {"messages": [{"role": role, "content": content} for role, content in said]} | fields
    return messages.read(body, Options(), system_first, "low")


def result(content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": content}


def test_blocks_become_one_message() -> None:
    """Text alone is a string; thinking and calls are fields beside it."""
    said = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "so"}, USE]
    (made,) = read(("assistant", said)).messages
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    assert made == {"role": "assistant", "reasoning": "hm", "tool_calls": [call], "content": "so"}


def test_results_go_before_the_users_text() -> None:
    """Each as a tool's message; a user's message of results only leaves none of its own."""
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    made = read(("user", [{"type": "text", "text": "and?"}, result(texts), result(None)]), ("user", [result("c")]))
    assert [(each["role"], each["content"]) for each in made.messages] == [
        ("tool", "a\nb"),
        ("tool", ""),
        ("user", "and?"),
        ("tool", "c"),
    ]


def test_pictures_in_results_are_a_users_message() -> None:
    """A tool's message is text only."""
    made = read(("user", [result([{"type": "text", "text": "a"}, PICTURE])])).messages
    assert [each["role"] for each in made] == ["tool", "user"]
    assert made[1]["content"][0]["type"] == "image_url"


BILLING = "x-anthropic-billing-header: 5"


@pytest.mark.parametrize(
    ("system_first", "expected"),
    [
        (False, [("system", "ab"), ("user", "u"), ("system", "later"), ("user", "v")]),
        (True, [("system", "ablater"), ("user", "u"), ("user", "v")]),
    ],
)
def test_system_messages(system_first: bool, expected: list[tuple[str, str]]) -> None:
    """Blocks are joined, lines that differ in each request dropped; late ones are moved where the template asks so."""
    system = [{"type": "text", "text": text} for text in (BILLING, "a", "", "b")]
    said = [("user", "u"), ("system", "later"), ("user", "v"), ("system", BILLING)]
    made = read(*said, system=system, system_first=system_first)
    assert [(each["role"], each["content"]) for each in made.messages] == expected


def test_tools_are_rewritten() -> None:
    """As functions, their schema an object's where it does not say."""
    made = read(("user", "u"), tools=[{"name": "f", "input_schema": {"properties": {}}}]).tools
    parameters = {"properties": {}, "type": "object"}
    assert made == [{"type": "function", "function": {"name": "f", "description": None, "parameters": parameters}}]


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"output_config": {"effort": "max"}}, "max"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, None),
    ],
)
def test_effort(fields: dict[str, Any], effort: str | None) -> None:
    """Is asked for by name; thinking that is disabled goes first."""
    assert read(("user", "u"), **fields).variables.get("reasoning_effort") == effort


@pytest.mark.parametrize(
    "said",
    [
        [],
        [("robot", "x")],
        [("user", 5)],
        [("user", [{"type": "unknown"}])],
        [("system", [{"type": "tool_removal", "tool": {"type": "tool_reference", "name": "f"}}])],
        [("assistant", [{"type": "tool_use", "name": "f"}])],
    ],
)
def test_what_cannot_be_known_is_refused(said: list[tuple[str, Any]]) -> None:
    """What the engine answers 400 to, and what it makes from the time or from all tools together."""
    with pytest.raises(Refused):
        read(*said)
