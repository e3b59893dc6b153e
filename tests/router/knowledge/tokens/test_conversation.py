"""Messages reach a template as the engine hands them over."""

from __future__ import annotations

from typing import Any

import pytest

from kvroute.router.knowledge.tokens.conversation import MARK, Conversation, Refused, without_developer

CALL = {"type": "function", "id": "1", "index": 0, "function": {"name": "f", "arguments": '{"a": 1}', "more": 2}}


def converted(message: dict[str, Any], parts: bool = False, **options: bool) -> dict[str, Any]:
    (made,) = Conversation(parts, **options).convert([message])
    return made


@pytest.mark.parametrize(
    ("content", "text", "parts"),
    [
        ("a", "a", [{"type": "text", "text": "a"}]),
        (None, "", []),
        ([], "", []),
        (
            [{"type": "text", "text": "a", "cache_control": 1}, "b", {"type": "refusal", "refusal": "no"}],
            "a\nb\nno",
            [
                {"type": "text", "text": "a", "cache_control": 1},
                {"type": "text", "text": "b"},
                {"type": "text", "text": "no"},
            ],
        ),
        (
            [{"type": "text", "text": ""}, {"type": "text", "text": None}, {"type": "text", "text": "a"}],
            "a",
            [{"type": "text", "text": ""}, {"type": "text", "text": "a"}],
        ),
        ([{"type": "tool_reference", "name": "f"}], "f", [{"type": "tool_reference", "name": "f"}]),
    ],
)
def test_contents(content: Any, text: str, parts: list[Any]) -> None:
    """As text, parts joined by line breaks and empty ones left out, or as parts with the fields the engine keeps."""
    message = {"role": "assistant", "content": content}
    assert converted(message)["content"] == text
    assert converted(message, parts=True)["content"] == parts


def test_a_tools_answer_is_text_for_every_template() -> None:
    """Templates that walk through parts take a tool's answer as text too, unless it names tools."""
    message = {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": x} for x in "ab"]}
    assert converted(message, parts=True) == {"role": "tool", "content": "a\nb", "tool_call_id": "1"}
    named = [{"type": "tool_reference", "name": "f"}]
    assert converted(message | {"content": named}, parts=True)["content"] == named


def test_tool_calls_are_validated() -> None:
    """Arguments become an object; fields stand in the order in which the engine's validation leaves them."""
    (call,) = converted({"role": "assistant", "content": None, "tool_calls": [CALL]})["tool_calls"]
    assert list(call) == ["id", "function", "type", "index"]
    assert list(call["function"]) == ["arguments", "name", "more"]
    assert call["function"]["arguments"] == {"a": 1}
    assert CALL["function"]["arguments"] == '{"a": 1}'  # type: ignore[index]


def test_a_developers_tools_are_validated() -> None:
    """Their fields stand in the order in which the engine's validation leaves them."""
    tool = {"type": "function", "function": {"parameters": {}, "more": 1, "name": "f"}, "extra": 2}
    (made,) = converted({"role": "developer", "content": "a", "tools": [tool]})["tools"]
    assert list(made) == ["function", "type", "extra"]
    assert list(made["function"]) == ["name", "parameters", "more"]


@pytest.mark.parametrize("arguments", ["", "nonsense", "[1]", "5", "null", None, "[" * 9999])
def test_arguments_that_are_no_object_are_empty(arguments: Any) -> None:
    """They stand in the history, and the engine goes on without them."""
    function = {"name": "f", "arguments": arguments}
    message = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    assert converted(message)["tool_calls"][0]["function"]["arguments"] == {}


def test_big_numbers_in_arguments_are_kept() -> None:
    """Integers beyond 64 bits are read as the engine reads them."""
    function = {"name": "f", "arguments": '{"a": 123456789012345678901234567890}'}
    message = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    assert converted(message)["tool_calls"][0]["function"]["arguments"] == {"a": 123456789012345678901234567890}


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"reasoning": "r"}, "r"),
        ({"reasoning_content": "r"}, "r"),
        ({"reasoning": "r", "reasoning_content": "old"}, "r"),
        ({"reasoning": None, "reasoning_content": "old"}, "old"),
        ({"reasoning": ""}, ""),
        ({"reasoning": None}, None),
    ],
)
def test_reasoning(given: dict[str, Any], seen: str | None) -> None:
    """By either name, and seen by templates under both."""
    made = converted({"role": "assistant", "content": "a"} | given)
    expected = {} if seen is None else {"reasoning": seen, "reasoning_content": seen}
    assert made == {"role": "assistant", "content": "a"} | expected


def test_fields_the_engine_drops() -> None:
    """Of the further fields of a message only those it knows reach a template."""
    message = {"role": "user", "content": "a", "foo": 1, "name": "ann", "tool_calls": [], "reasoning": "x"}
    assert converted(message) == {"role": "user", "content": "a", "name": "ann"}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("x-anthropic-billing-header: 1\nrest", "rest"),
        ("x-anthropic-billing-header: 1", ""),
        ([{"type": "text", "text": "x-anthropic-billing-header: 1"}, {"type": "text", "text": "rest"}], "rest"),
    ],
)
def test_a_line_that_differs_in_each_request_is_dropped(content: Any, text: str) -> None:
    """From system messages only."""
    assert converted({"role": "system", "content": content})["content"] == text
    assert converted({"role": "user", "content": content})["content"] != text


def test_media_are_marked() -> None:
    """What stands for a picture depends on the model; where it stands is marked on demand."""
    message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}
    assert converted(message)["content"] == MARK
    assert converted(message, parts=True)["content"][1] == {"type": "image"}
    assert converted(message, parts=True, marked=True)["content"][1] == {"type": "text", "text": MARK}


@pytest.mark.parametrize(
    "message",
    [
        5,
        {},
        {"role": 5},
        {"role": "user", "content": 5},
        {"role": "user", "content": [5]},
        {"role": "user", "content": [{"type": "file", "file": {}}]},
        {"role": "user", "content": [{"type": "text", "text": 5}]},
        {"role": "assistant", "tool_calls": {"a": 1}},
        {"role": "assistant", "tool_calls": [5]},
        {"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]},
    ],
)
def test_what_the_engine_refuses(message: Any) -> None:
    """Is refused, not guessed."""
    with pytest.raises(Refused):
        converted(message)


def test_developers_become_the_system() -> None:
    """For templates that do not know them: one system message at the beginning."""
    said: list[dict[str, Any]] = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "developer", "content": [{"type": "text", "text": "c"}], "tools": None},
    ]
    assert without_developer(said) == [{"role": "system", "content": "a\n\nc"}, {"role": "user", "content": "b"}]
    assert without_developer(said[:2]) == said[:2]
    assert without_developer([said[2]]) == [{"role": "system", "content": [{"type": "text", "text": "c"}]}]
