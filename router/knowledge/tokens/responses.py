"""`/v1/responses`: its items as chat messages. An answer's text, its calls and its reasoning become one message."""

from __future__ import annotations

from typing import Any

from kvroute.router.knowledge.tokens.chat import Chat, Options, described, merged
from kvroute.router.knowledge.tokens.conversation import Refused
from kvroute.router.knowledge.tokens.rendered import Rendered

UNFINISHED = ("in_progress", "incomplete")
STORED = ("previous_response_id", "prompt", "previous_input_messages")
"""What stands only in the engine's memory, or is said in another format."""


def read(fields: dict[str, Any], options: Options) -> Chat:
    """The chat of a body.

    Raises:
        Refused: where the engine would answer 400, or begins with what this body does not tell.
    """
    if stored := next((name for name in STORED if fields.get(name) is not None), None):
        raise Refused(stored)
    given = fields.get("input")
    messages: list[dict[str, Any]] = []
    if instructions := fields.get("instructions"):
        messages.append({"role": "system", "content": instructions})
    if type(given) is str:
        messages.append({"role": "user", "content": given})
    elif type(given) is list:
        messages += _messages(given)
    if not messages or given is None:
        raise Refused("no input")
    unfinished = _unfinished(given)
    variables = {"add_generation_prompt": not unfinished, "continue_final_message": unfinished}
    reasoning = fields.get("reasoning")
    effort = reasoning.get("effort") if type(reasoning) is dict else None
    merged_ones = merged(fields, variables, effort)
    # The engine takes a request's own variables for its defaults as well, so that those which are null count here.
    return Chat(
        messages, _tools(fields, options), merged_ones, _tokenised(fields), validated=False, defaults=merged_ones
    )


def _tokenised(fields: dict[str, Any]) -> Rendered:
    """This endpoint leaves `add_special_tokens` at the tokenizer's default, and cuts to what the model takes."""
    cut = fields.get("truncation", "disabled") != "disabled"
    return Rendered(add_special_tokens=True, truncate=-1 if cut else None)


def _unfinished(given: Any) -> bool:
    last = given[-1] if type(given) is list and given else None
    if type(last) is not dict or last.get("type", "message") not in ("message", "reasoning"):
        return False
    return last.get("status") in UNFINISHED


def _messages(items: list[Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for item in items:
        if type(item) is not dict:
            raise Refused("an item that is no object")
        message = _message(item)
        if not _joined(messages, message):
            messages.append(message)
    return messages


def _joined(messages: list[dict[str, Any]], message: dict[str, Any]) -> bool:
    """True: the message is a further part of the assistant's last one, and was put there."""
    last = messages[-1] if messages else None
    if last is None or message["role"] != "assistant" or last["role"] != "assistant":
        return False
    (name,) = message.keys() - {"role"} if len(message) == 2 else (None,)
    if name == "tool_calls":
        last["tool_calls"] = [*(last.get("tool_calls") or []), *message["tool_calls"]]
    elif name in ("content", "reasoning") and last.get(name) is None:
        last[name] = message[name]
    else:
        return False
    return True


def _message(item: dict[str, Any]) -> dict[str, Any]:
    """A message of its own for an item; an assistant's has one field besides its role."""
    match item.get("type", "message"):
        case "function_call":
            return {"role": "assistant", "tool_calls": [_call(item)]}
        case "reasoning":
            return {"role": "assistant", "reasoning": _reasoning(item)}
        case "function_call_output":
            return {"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")}
        case "message" if type(item.get("role")) is str:
            return _spoken(item)
        case _:
            raise Refused("an item of an unknown type")


def _spoken(item: dict[str, Any]) -> dict[str, Any]:
    """Of an assistant's parts the engine reads the first only."""
    content = item.get("content")
    if item["role"] != "assistant":
        return dict(item)
    if type(content) is list and content:
        content = content[0].get("text") if type(content[0]) is dict else None
    if type(content) is not str:
        raise Refused("an answer without text")
    return {"role": "assistant", "content": content}


def _call(item: dict[str, Any]) -> dict[str, Any]:
    name, namespace = item.get("name"), item.get("namespace")
    if not (type(name) is str and type(item.get("arguments")) is str and type(item.get("call_id")) is str):
        raise Refused("a function call without a name, arguments or call_id")
    function = {"name": f"{namespace}__{name}" if namespace else name, "arguments": item["arguments"]}
    return {"id": item["call_id"], "function": function, "type": "function"}


def _reasoning(item: dict[str, Any]) -> str:
    if item.get("encrypted_content"):
        raise Refused("encrypted reasoning")
    for texts in (item.get("content"), item.get("summary")):
        if type(texts) is list and texts:
            first = texts[0].get("text") if type(texts[0]) is dict else None
            if type(first) is not str:
                raise Refused("reasoning without text")
            return first
    return ""


def _tools(fields: dict[str, Any], options: Options) -> list[dict[str, Any]] | None:
    """Functions only: the model is not shown tools that a server runs."""
    tools = fields.get("tools")
    if not tools or (fields.get("tool_choice") == "none" and options.exclude_tools_when_none):
        return None
    if type(tools) is not list:
        raise Refused("tools that are no list")
    if any(type(tool) is not dict or tool.get("type") in ("custom", "namespace") for tool in tools):
        raise Refused("tools that the engine rewrites")
    return [{"type": "function", "function": described(tool)} for tool in tools if tool.get("type") == "function"]
