"""Messages as the engine hands them to a chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

MARK = "\ue000kvroute\ue001media\ue002"
"""Stands where the engine writes something that depends on the model: three characters for private use."""

BILLING = "x-anthropic-billing-header"
"""A client's line that differs in each request: the engine drops it from system messages."""

MEDIA = {
    "image_url": "image",
    "input_image": "image",
    "image_embeds": "image",
    "image_pil": "image",
    "audio_url": "audio",
    "input_audio": "audio",
    "audio_embeds": "audio",
    "video_url": "video",
    "video_embeds": "video",
    "prompt_embeds": "prompt_embeds",
}
"""Types of content parts that are no text -> what the template sees of them."""

TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
"""Types of content parts that are text -> the field that holds it."""

PART_FIELDS = {
    *("audio_embeds", "audio_url", "closed", "data", "file", "image_embeds", "image_pil", "image_url", "input_audio"),
    *("name", "prompt_cache_breakpoint", "refusal", "text", "thinking", "type", "uuid", "video_embeds", "video_url"),
}
"""Fields of content parts that the engine knows; the others it passes on to templates that walk through parts."""

CALL, FUNCTION = ("id", "function", "type"), ("arguments", "name")
"""The order in which the engine's validation leaves the fields of a tool call; templates may print them."""

TOOL, DESCRIBED = ("function", "type"), ("name", "description", "parameters", "strict")
"""And those of a tool in a developer's message."""


class Refused(Exception):
    """The engine answers 400 to this, or something that cannot be known stands here; says what."""


class Conversation:
    """The messages of one request, converted."""

    __slots__ = ("_parts", "_validated", "marked", "media")

    def __init__(self, parts: bool, validated: bool = True, marked: bool = False) -> None:
        """`parts`: contents become lists of parts, otherwise text. `validated`: tool calls went through the validation
        of chat completions. `marked`: MARK stands in the place of media, otherwise what the template sees of them."""
        self._parts = parts
        self._validated = validated
        self.marked = marked
        self.media = False
        """True once a message had content that is no text."""

    def convert(self, messages: Iterable[Any]) -> list[dict[str, Any]]:
        """The messages for the template; those given are not changed.

        Raises:
            Refused: where the engine would answer 400.
        """
        return [self._message(message) for message in messages]

    def _message(self, message: Any) -> dict[str, Any]:
        role, content = _role(message), message.get("content")
        content = self._text(role, content) if type(content) is str else self._contents(role, content or [])
        converted = {"role": role, "content": content}
        if len(message) > 2 or "content" not in message or role == "developer":
            self._further(role, message, converted)
        return converted

    def _text(self, role: str, content: str) -> Any:
        if role == "system" and content.startswith(BILLING):
            return self._contents(role, [content])
        return [{"type": "text", "text": content}] if self._parts and role != "tool" else content

    def _further(self, role: str, message: dict[str, Any], converted: dict[str, Any]) -> None:
        """The fields beyond role and content that reach the template, in the engine's order."""
        if role == "assistant":
            if calls := message.get("tool_calls"):
                converted["tool_calls"] = [self._call(call) for call in _list(calls)]
            reasoning = message.get("reasoning")
            if reasoning is None and self._validated:
                reasoning = message.get("reasoning_content")
            if reasoning is not None:
                converted["reasoning"] = converted["reasoning_content"] = reasoning
        elif role == "tool" and "tool_call_id" in message:
            converted["tool_call_id"] = message["tool_call_id"]
        for name in ("name", "task"):
            if isinstance(message.get(name), str):
                converted[name] = message[name]
        if role == "developer":
            tools = message.get("tools")
            converted["tools"] = [_developers(tool) for tool in tools] if type(tools) is list else tools

    def _contents(self, role: str, content: list[Any]) -> Any:
        if role == "system":
            content = list(_without_billing(content))
        before, self.media = self.media, False
        converted = [part for each in content if (part := self._part(each))]
        media, self.media = self.media, before or self.media
        if self._parts:
            if role == "tool" and all(part["type"] == "text" for part in converted):
                return "\n".join(part["text"] for part in converted)
            return converted
        return MARK if media else "\n".join(converted)

    def _part(self, part: Any) -> Any:
        """A dict for templates that walk through parts, otherwise its text; the engine leaves out what is empty."""
        if type(part) is str:
            return {"type": "text", "text": part} if self._parts else part
        kind, value = _kind(part)
        if kind in TEXTS:
            return self._text_part(kind, value, part)
        if kind == "tool_reference":
            return {"type": kind, "name": value} if self._parts else value
        self.media = True
        if not self._parts:
            return ""
        if self.marked or kind == "prompt_embeds":
            return {"type": "text", "text": MARK}
        return {"type": MEDIA[kind], **_extras(part)}

    def _text_part(self, kind: str, value: Any, part: dict[str, Any]) -> Any:
        if value is None and kind in ("text", "refusal"):
            return None
        if type(value) is not str:
            raise Refused("a content part without text")
        return {"type": "text", "text": value, **_extras(part)} if self._parts else value

    def _call(self, call: Any) -> dict[str, Any]:
        """A tool call whose arguments are an object, as templates expect them."""
        function = call.get("function") if type(call) is dict else None
        if type(function) is not dict or call.get("type", "function") != "function":
            raise Refused("a tool call that is no function call")
        if self._validated:
            call, function = _ordered(call, CALL), _ordered(function, FUNCTION)
        return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _role(message: Any) -> str:
    role = message.get("role") if type(message) is dict else None
    if type(role) is not str:
        raise Refused("a message without a role")
    content = message.get("content")
    if not (content is None or type(content) is str or type(content) is list):
        raise Refused("a content that is neither text nor a list")
    return role


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise Refused("tool_calls that are no list")
    return value


def _kind(part: Any) -> tuple[str, Any]:
    """The type of a content part, and its value where it is text or a reference."""
    if type(part) is not dict:
        raise Refused("a content part that is no object")
    kind = part.get("type")
    if kind is None or part.get("uuid") is not None:
        kind = next((name for name in (*MEDIA, "tool_reference") if name in part), None)
    if type(kind) is not str or not (kind in TEXTS or kind in MEDIA or kind == "tool_reference"):
        raise Refused("a content part of an unknown type")
    return kind, part.get(TEXTS.get(kind, "name"))


def _without_billing(content: list[Any]) -> Iterable[Any]:
    for part in content:
        plain = type(part) is str
        text = part if plain else part.get("text") if type(part) is dict and part.get("type") == "text" else None
        if not (type(text) is str and text.startswith(BILLING)):
            yield part
        elif rest := text.partition("\n")[2]:
            yield rest if plain else {**part, "text": rest}


def _extras(part: dict[str, Any]) -> dict[str, Any]:
    return {} if len(part) == 2 else {name: value for name, value in part.items() if name not in PART_FIELDS}


def _ordered(fields: dict[str, Any], first: tuple[str, ...]) -> dict[str, Any]:
    return {name: fields[name] for name in first if name in fields} | fields


def _developers(tool: Any) -> Any:
    function = tool.get("function") if type(tool) is dict else None
    return _ordered(tool, TOOL) | {"function": _ordered(function, DESCRIBED)} if type(function) is dict else tool


def _arguments(given: Any) -> dict[str, Any]:
    """What is no JSON object counts as an empty one: it stands in the history, and cannot be mended."""
    if type(given) is str and given:
        try:
            given = json.loads(given)  # as the engine reads it: integers of any size, NaN
        except (ValueError, RecursionError):
            return {}
    return given if type(given) is dict else {}


def without_developer(conversation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For templates that do not know the role "developer": a system message, and one only, at the beginning."""
    if not any(message["role"] == "developer" for message in conversation):
        return conversation
    renamed = [_as_system(message) if message["role"] == "developer" else message for message in conversation]
    places = [place for place, message in enumerate(renamed) if message["role"] == "system"]
    if places == [0]:
        return renamed
    texts = filter(None, (_joined(renamed[place]["content"]) for place in places))
    others = [message for message in renamed if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(texts)}, *others]


def _as_system(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "tools"} | {"role": "system"}


def _joined(content: Any) -> str:
    if type(content) is list:
        return "\n".join(part["text"] for part in content if "text" in part)
    return content if type(content) is str else ""
