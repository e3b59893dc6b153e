"""A request body as the bytes that its prompt is compared by, cut where a conversation may go on.

Two bodies yield the same leading bytes only where the engine renders the same leading tokens: tools come first, as
templates render them, then each message with its role. Anything of a type that the engine refuses ends the reading:
what stands before it is kept, and nothing raises.
"""

from __future__ import annotations

import array
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson
import xxhash

from kvroute.router.parse import Body, Kind

ANCHOR_CHARACTERS = 100
MEDIA_BYTES = 2048
"""Length given to an image, a sound or a film: its tokens stand for about 500 at 4 bytes a token."""
ID_BYTES = 4
"""Length of a token id in a prompt given as ids."""

_AHEAD = ("tools", "functions", "documents", "chat_template")
"""Fields that templates render before the first message."""
_BEFORE = ("previous_response_id", "previous_input_messages")
"""Fields of a response that put what is not read here before its input."""
_ALTERING = frozenset({"chat_template", "prompt_embeds", "truncate_prompt_tokens"})
"""Fields that make the engine's prompt another than the text given, longer or shorter."""
_BESIDE = ("name", "tool_calls", "function_call", "tool_call_id", "refusal", "reasoning", "reasoning_content")
"""Fields of a message that templates may render beside its content."""
_TEXT = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
"""Type of a content part -> where its text stands."""
_MEDIA = ("image_url", "image", "source", "input_audio", "audio_url", "video_url", "file", "file_id", "uuid")
"""Where the payload of a content part that is not text stands."""
_RENDERED = frozenset({"function_call", "function_call_output", "tool_use"})
"""Types of items and parts that are text to the engine, about as long as their JSON."""
_LONG = 1024
"""Texts of this many characters make a piece of their own."""
_SHORT = 2048
"""Conversations of fewer characters are one piece: below what resuming pays for (`boundaries.SMALL_BYTES`)."""
_PASSING = frozenset({"id", "status", "cache_control"})
"""Fields of an item that do not reach the prompt, or change between turns."""


class Reading(msgspec.Struct, gc=False):
    """What a prompt is compared by."""

    pieces: list[bytes]
    """The first (usually the only) prompt; a conversation's next turn keeps the leading pieces as they are."""
    anchor: bytes = b""
    """The first 100 characters that the user wrote."""
    text_bytes: int = 0
    """Of all prompts, those given as token ids aside [bytes]."""
    ids: int = 0
    """Of all prompts given as token ids [tokens]."""
    whole: bool = True
    """The engine's prompt is this text and no more: its count of tokens tells how many bytes make one."""


def read(body: Body) -> Reading:
    """Read one body. Never raises, whatever types its fields have."""
    fields = body.fields
    kind = body.kind
    reading = _read(kind, fields)
    if reading.whole and not _ALTERING.isdisjoint(fields):
        reading.whole = all(fields.get(name) is None for name in _ALTERING)
    return reading


def _read(kind: Kind, fields: Mapping[str, Any]) -> Reading:
    if kind is Kind.CHAT or (kind is Kind.EMBEDDING and "messages" in fields):
        return _conversation(fields, None, fields.get("messages"))
    if kind is Kind.COMPLETION:
        return _prompts(fields.get("prompt"))
    if kind is Kind.EMBEDDING:
        return _prompts(fields.get("input"))
    if kind is Kind.MESSAGES:
        return _conversation(fields, fields.get("system"), fields.get("messages"))
    if kind is Kind.RESPONSES:
        asked = fields.get("input")
        items = [{"role": "user", "content": asked}] if type(asked) is str else asked
        reading = _conversation(fields, fields.get("instructions"), items)
        if any(fields.get(name) is not None for name in _BEFORE):
            reading.pieces = []  # its prompt begins with what only the replica knows
            reading.whole = False
        return reading
    return Reading([])


def _prompts(prompt: object) -> Reading:
    """A string, token ids, or a list of either: the first is keyed, all are counted."""
    reading = Reading([])
    if type(prompt) is list and prompt and type(prompt[0]) is not int:
        for index, one in enumerate(prompt):
            if not _prompt(one, reading, keyed=index == 0):
                reading.whole = False
                break
    else:
        reading.whole = _prompt(prompt, reading, keyed=True)
    reading.whole = reading.whole and not reading.ids
    return reading


def _prompt(prompt: object, reading: Reading, *, keyed: bool) -> bool:
    """Count one prompt, and key it if asked. False: it is doubtful."""
    if type(prompt) is str:
        data = _encoded(prompt)
        reading.text_bytes += len(data)
        anchor = _encoded(prompt[:ANCHOR_CHARACTERS])
    elif type(prompt) is list:
        data = _packed(prompt)
        reading.ids += len(prompt)
        anchor = data[: ANCHOR_CHARACTERS * ID_BYTES]
    else:
        return False
    if keyed:
        reading.pieces.append(data)
        reading.anchor = anchor
    return True


def _packed(ids: list[Any]) -> bytes:
    """Token ids as 4 bytes each, up to the first that is none."""
    try:
        return array.array("I", ids).tobytes()
    except (TypeError, OverflowError):
        sound = next(i for i, one in enumerate(ids) if type(one) is not int or not 0 <= one < 1 << 32)
        return array.array("I", ids[:sound]).tobytes()


def _conversation(fields: Mapping[str, Any], system: object, messages: object) -> Reading:
    """Tools and their like, then the system prompt, then the messages; a piece each."""
    pieces: list[bytes] = []
    reading = Reading(pieces)
    for name in _AHEAD:
        value = fields.get(name)
        if value:
            data = _json(value)
            if data is None:
                reading.whole = False
                return reading
            pieces.append(b"\x01%b\x02%b" % (name.encode(), data))
    whole = [{"role": "system", "content": system}, *_listed(messages)] if system else messages
    if type(whole) is list and whole and not _short(whole, reading):
        reading.anchor = b""
        if not _messages(whole, reading):
            reading.whole = False
    reading.text_bytes = sum(map(len, pieces))
    return reading


def _listed(messages: object) -> list[Any]:
    return messages if type(messages) is list else []


def _short(messages: list[Any], reading: Reading) -> bool:
    """Append one piece for a short conversation of plain messages, half as dear as many. False: it is none."""
    parts = []
    left = _SHORT
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return False
        role, content = message.get("role"), message.get("content")
        if type(role) is not str or type(content) is not str:
            return False
        left -= len(content)
        if left < 0:
            return False
        if role == "user" and not reading.anchor:
            reading.anchor = _encoded(content[:ANCHOR_CHARACTERS])
        parts.append(f"\x01{role}\x02{content}")
    piece = _encoded("".join(parts))
    reading.pieces.append(piece)
    reading.anchor = reading.anchor or piece[:ANCHOR_CHARACTERS]
    return True


def _messages(messages: list[Any], reading: Reading) -> bool:
    """Append a piece per message, up to the first doubtful one. False: there is one."""
    append = reading.pieces.append
    for message in messages:
        if type(message) is not dict:
            return False
        role = message.get("role")
        content = message.get("content")
        if type(role) is not str:
            piece = _item(message, reading)
            if piece is None:
                return False
            append(piece)
            continue
        text = content if type(content) is str else _text(content, reading)
        if text is None:
            return False
        if len(text) < _LONG:
            piece = _encoded(f"\x01{role}\x02{text}")
        else:  # not copied once more
            append(_encoded(f"\x01{role}\x02"))
            piece = _encoded(text)
        if len(message) > 2:
            extra = _beside(message)
            if extra is None:
                return False
            piece += extra
        append(piece)
        if not reading.anchor and role == "user":
            reading.anchor = _encoded(text[:ANCHOR_CHARACTERS])
    if not reading.anchor and reading.pieces:
        reading.anchor = reading.pieces[-1][:ANCHOR_CHARACTERS]
    return True


def _item(item: dict[Any, Any], reading: Reading) -> bytes | None:
    """An item without a role (a function call, its output, reasoning): keyed by its JSON. None: doubtful."""
    kind = item.get("type")
    if type(kind) is not str:
        return None
    if kind not in _RENDERED:
        reading.whole = False
    data = _json({key: value for key, value in item.items() if key not in _PASSING})
    return None if data is None else b"\x01\x02" + data


def _text(content: object, reading: Reading, *, inner: bool = False) -> str | None:
    """Content given as parts, as templates join them; `inner`: of a tool's result. None: doubtful."""
    if content is None:
        return ""
    if type(content) is not list:
        return None
    texts = []
    for part in content:
        text = part if type(part) is str else _part(part, reading, inner=inner) if type(part) is dict else None
        if text is None:
            return None
        texts.append(text)
    return "\n".join(texts)


def _part(part: dict[Any, Any], reading: Reading, *, inner: bool) -> str | None:
    """One content part: its text; a stand-in of fixed length for media; else its JSON. None: doubtful."""
    kind = part.get("type")
    if type(kind) is not str:
        return None
    if kind in _TEXT:
        text = part.get(_TEXT[kind])
        return text if type(text) is str else None
    if kind == "tool_result" and not inner:
        content = part.get("content")
        result = content if type(content) is str else _text(content, reading, inner=True)
        return None if result is None else f"\x03{kind}\x02{result}"
    if kind not in _RENDERED:
        reading.whole = False  # what follows takes room that its bytes do not tell
    for name in _MEDIA:
        payload = part.get(name)
        if payload is not None:
            return _media(kind, payload)
    data = _json({key: value for key, value in part.items() if key not in _PASSING})
    return None if data is None else "\x03" + data.decode()


def _media(kind: str, payload: object) -> str | None:
    """The hash of a picture's URL or data, repeated to the room that its tokens take."""
    if type(payload) is dict and type(payload.get("url")) is str:
        payload = payload["url"]
    data = _encoded(payload) if type(payload) is str else _json(payload)
    if data is None:
        return None
    return f"{xxhash.xxh3_64_intdigest(data):016x}" * (MEDIA_BYTES // 16)


def _beside(message: Mapping[Any, Any]) -> bytes | None:
    """A message's fields beside role and content. None: doubtful."""
    extra = b""
    for name in _BESIDE:
        value = message.get(name)
        if value:
            data = _json(value)
            if data is None:
                return None
            extra += b"\x03%b\x02%b" % (name.encode(), data)
    return extra


def _encoded(text: str) -> bytes:
    """UTF-8; lone surrogates, which JSON may carry, are taken as they are."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _json(value: object) -> bytes | None:
    """The JSON of a parsed value. None: it is nested too deep."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # lone surrogates, huge integers, deep nesting
        try:
            return json.dumps(value).encode()
        except RecursionError:
            return None
