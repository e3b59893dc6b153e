"""Items of `/v1/responses` become the chat messages that the engine makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from kvroute.router.knowledge.tokens import responses
from kvroute.router.knowledge.tokens.chat import Options
from kvroute.router.knowledge.tokens.conversation import Refused

CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]}
THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]}


def messages(*items: Any, **fields: Any) -> list[Any]:
    return responses.read({"input": list(items)} | fields, Options()).messages


def test_instructions_go_first() -> None:
    """They are the system message, also of an input that is text."""
    assert messages(input="hi", instructions="be brief") == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]


def test_an_answers_items_are_one_message() -> None:
    """Reasoning, text and calls that follow each other; a second text begins a new message."""
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}, "type": "function"}
    assert messages({"role": "user", "content": "a"}, THOUGHT, SAID, CALL, CALL, SAID) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "reasoning": "t", "content": "b", "tool_calls": [call, call]},
        {"role": "assistant", "content": "b"},
    ]


def test_a_calls_result_is_a_tools_message() -> None:
    """With the id of the call, and calls of a namespace under their full name."""
    result = {"type": "function_call_output", "call_id": "1", "output": "42"}
    made = messages(CALL | {"namespace": "ns"}, result)
    assert made[0]["tool_calls"][0]["function"]["name"] == "ns__f"
    assert made[1] == {"role": "tool", "content": "42", "tool_call_id": "1"}


@pytest.mark.parametrize(("status", "unfinished"), [("incomplete", True), ("completed", False)])
def test_an_unfinished_answer_is_continued(status: str, unfinished: bool) -> None:
    """The last item's status tells whether the model goes on with it."""
    variables = responses.read({"input": [SAID | {"status": status}]}, Options()).variables
    assert (variables["continue_final_message"], variables["add_generation_prompt"]) == (unfinished, not unfinished)


def test_only_functions_are_shown_to_the_model() -> None:
    """A tool that the server runs is left out; the list is given all the same."""
    tools = [{"type": "web_search"}, {"type": "function", "name": "f", "parameters": {}, "strict": None}]
    read = responses.read({"input": "a", "tools": tools}, Options())
    function: dict[str, Any] = {"name": "f", "description": None, "parameters": {}}
    assert read.tools == [{"type": "function", "function": function}]
    assert responses.read({"input": "a", "tools": tools[:1]}, Options()).tools == []


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"prompt": {"id": "p"}},
        {"input": None},
        {"input": []},
        {"input": [{"type": "computer_call"}]},
        {"input": [THOUGHT | {"encrypted_content": "x"}]},
        {"tools": [{"type": "custom", "name": "f"}]},
    ],
)
def test_what_cannot_be_known_is_refused(fields: dict[str, Any]) -> None:
    """What the engine keeps, encrypts, rewrites or answers 400 to."""
    with pytest.raises(Refused):
        responses.read({"input": "a"} | fields, Options())
