"""`/v1/messages`: Anthropic's messages as the engine turns them into chat messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvroute.router.knowledge.tokens.chat import Chat, Options, described, merged
from kvroute.router.knowledge.tokens.conversation import BILLING, Refused
from kvroute.router.knowledge.tokens.rendered import Rendered

PICTURE = {"type": "image_url", "image_url": {}}
"""A content part that stands for an image; which one is not asked, it cannot be rendered."""


def read(fields: dict[str, Any], options: Options, system_first: bool, disabled_effort: str) -> Chat:
    """The chat of a body. `system_first`: the template takes system messages at the beginning only.
    `disabled_effort`: the reasoning effort by which thinking is switched off.

    Raises:
        Refused: where the engine would answer 400.
    """
    given = fields.get("messages")
    if type(given) is not list:
        raise Refused("no messages")
    messages = list(_all(fields.get("system"), given, system_first))
    if not messages:
        raise Refused("no messages")
    choice = fields.get("tool_choice")
    hidden = options.exclude_tools_when_none and type(choice) is dict and choice.get("type") == "none"
    tools = None if hidden else _tools(fields.get("tools"))
    variables = {"add_generation_prompt": True, "continue_final_message": False}
    return Chat(messages, tools, merged(fields, variables, _effort(fields, disabled_effort)), Rendered())


def _effort(fields: dict[str, Any], disabled_effort: str) -> Any:
    thinking, output = fields.get("thinking"), fields.get("output_config")
    if type(thinking) is dict and thinking.get("type") == "disabled":
        return disabled_effort
    return output.get("effort") if type(output) is dict else None


def _all(system: Any, given: list[Any], system_first: bool) -> Iterator[dict[str, Any]]:
    # The line that differs in each request stays in a system prompt that is plain text: it is taken out later.
    first = [system if type(system) is str else _system(system)] if system else []
    if system_first:
        first += [_system(message.get("content")) for message in given if _role(message) == "system"]
    if any(first):
        yield {"role": "system", "content": "".join(first)}
    for message in given:
        role, content = _role(message), message.get("content")
        if role != "system":
            yield from _converted(role, content)
        elif not system_first and (text := _system(content)):
            yield {"role": "system", "content": text}


def _role(message: Any) -> str:
    role = message.get("role") if type(message) is dict else None
    if role not in ("user", "assistant", "system"):
        raise Refused("a message without a role")
    return str(role)


def _system(content: Any) -> str:
    """The text of a system message, without the line that differs in each request."""
    texts = [content] if type(content) is str else [_text(block) for block in _blocks(content) if _is(block, "text")]
    return "".join(text for text in texts if not text.startswith(BILLING))


def _blocks(content: Any) -> list[dict[str, Any]]:
    if type(content) is not list or any(type(block) is not dict for block in content):
        raise Refused("a content that is neither text nor a list of blocks")
    if any(_is(block, "tool_addition") or _is(block, "tool_removal") for block in content):
        raise Refused("tools that change on the way")
    return content


def _is(block: dict[str, Any], kind: str) -> bool:
    return bool(block.get("type") == kind)


def _text(block: dict[str, Any], name: str = "text") -> str:
    text = block.get(name)
    if not (text is None or type(text) is str):
        raise Refused("a block without text")
    return text or ""


def _converted(role: str, content: Any) -> Iterator[dict[str, Any]]:
    """One message; a user's tool results stand before it as messages of their own."""
    if type(content) is str:
        yield {"role": role, "content": content}
        return
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for block in _blocks(content):
        match block.get("type"):
            case "text" if text := _text(block):
                parts.append({"type": "text", "text": text})
            case "image" if block.get("source"):
                parts.append(PICTURE)
            case "thinking" if block.get("thinking") is not None:
                thoughts.append(_text(block, "thinking"))
            case "tool_use":
                calls.append(_call(block))
            case "tool_result" if role == "user":
                yield from _results(block)
            case "tool_result":
                result = block.get("content")
                parts.append({"type": "text", "text": f"Tool result: {str(result) if result else ''}"})
            case "text" | "image" | "thinking" | "redacted_thinking" | "tool_reference":
                pass
            case _:
                raise Refused("a block of an unknown type")
    if parts or role != "user":
        yield _message(role, parts, calls, thoughts)


def _message(
    role: str, parts: list[dict[str, Any]], calls: list[dict[str, Any]], thoughts: list[str]
) -> dict[str, Any]:
    made: dict[str, Any] = {"role": role}
    if thoughts:
        made["reasoning"] = "".join(thoughts)
    if calls:
        made["tool_calls"] = calls
    if parts:
        alone = len(parts) == 1 and parts[0]["type"] == "text"
        made["content"] = parts[0]["text"] if alone else parts
    return made


def _call(block: dict[str, Any]) -> dict[str, Any]:
    identity, name = block.get("id"), block.get("name")
    if not identity:
        raise Refused("a tool call without an id: the engine makes one from the time")
    given = block.get("input")
    function = {"name": name or "", "arguments": given if type(given) is dict else {}}
    return {"id": identity, "type": "function", "function": function}


def _results(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A tool's answer: its text, its pictures as a user's message, the tools that it names."""
    content, call = block.get("content"), block.get("tool_use_id") or ""
    items = [item for item in content if type(item) is dict] if type(content) is list else []
    text = content if type(content) is str else "\n".join(_text(item) for item in items if _is(item, "text"))
    yield {"role": "tool", "tool_call_id": call, "content": text}
    if pictures := [PICTURE for item in items if _is(item, "image")]:
        yield {"role": "user", "content": pictures}
    named = [item.get("tool_name") or item.get("name") for item in items if _is(item, "tool_reference")]
    if references := [{"type": "tool_reference", "name": name} for name in named if name]:
        yield {"role": "tool", "tool_call_id": call, "content": references}


def _tools(tools: Any) -> list[dict[str, Any]] | None:
    if tools is None:
        return None
    if type(tools) is not list:
        raise Refused("tools that are no list")
    return [_tool(tool) for tool in tools]


def _tool(tool: Any) -> dict[str, Any]:
    schema = tool.get("input_schema") if type(tool) is dict else None
    if type(schema) is not dict:
        raise Refused("a tool without a schema")
    parameters = schema if "type" in schema else schema | {"type": "object"}
    return {"type": "function", "function": described({**tool, "parameters": parameters})}
