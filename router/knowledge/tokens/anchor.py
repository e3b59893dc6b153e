"""A body's anchor as the text lens computes it, without reading the whole body."""

from __future__ import annotations

from typing import Any

import msgspec
import xxhash

from kvroute.router.knowledge import canonical
from kvroute.router.parse import Body

_OPENING = 8192
"""Characters of a text that stand for the whole: far more than an anchor takes."""

_MOST_MESSAGES = 1000


def anchor(body: Body, adapter: str | None) -> int:
    """Hash of the adapter and the first 100 characters that the user wrote."""
    opening = canonical.read(msgspec.structs.replace(body, fields=_opening(body.fields))).anchor
    return xxhash.xxh3_64_intdigest(
        opening if adapter is None else adapter.encode("utf-8", "replace") + b"\x00" + opening
    )


def _opening(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that an anchor is read from, none of them long."""
    found: dict[str, Any] = {}
    for name in ("system", "instructions", "previous_response_id", "previous_input_messages"):
        if name in fields:
            found[name] = _short(fields[name])
    for name in ("prompt", "input", "messages"):
        value = fields.get(name)
        if type(value) is str:
            found[name] = value[:_OPENING]
        elif type(value) is list and value and type(value[0]) is int:
            found[name] = value[: canonical.ANCHOR_CHARACTERS]
        elif type(value) is list and value and type(value[0]) is dict:
            found[name] = [_short_message(message) for message in value[: _first_user(value) + 1]]
        elif type(value) is list:
            found[name] = value[:1]
    return found


def _first_user(messages: list[Any]) -> int:
    """The place of the first message of a user; else of the last message. No further than anybody talks alone."""
    for index, message in enumerate(messages[:_MOST_MESSAGES]):
        if type(message) is dict and message.get("role") == "user":
            return index
    return min(len(messages), _MOST_MESSAGES) - 1


def _short_message(message: Any) -> Any:
    content = message.get("content") if type(message) is dict else None
    if type(content) is str and len(content) > _OPENING:
        return message | {"content": content[:_OPENING]}
    return message


def _short(value: Any) -> Any:
    return value[:_OPENING] if type(value) is str else value
