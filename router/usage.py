"""The `usage` object at the end of a reply: found by a look at its last bytes, never by parsing the reply."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

_MARK = b'"usage":'
_NEAR = len(_MARK) + 4
"""Where its brace must be by, white space included."""
_LONGEST = 2048


class Usage(msgspec.Struct, gc=False):
    """What a reply says of its own cost [tokens]. `cached` is None where the engine does not tell."""

    prompt: int
    completion: int
    cached: int | None


def read(tail: bytes) -> Usage | None:
    """The last usage object in `tail`, of any of vLLM's APIs; None when there is none or it is cut off."""
    at = tail.rfind(_MARK)
    if at < 0:
        return None
    start = tail.find(b"{", at, at + _NEAR)
    end = start
    while start >= 0:
        end = tail.find(b"}", end, start + _LONGEST) + 1
        if not end:
            return None
        if tail.count(b"{", start, end) == tail.count(b"}", start, end):
            return _parsed(tail[start:end])
    return None


def _parsed(text: bytes) -> Usage | None:
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return _usage(fields)


def _usage(fields: dict[str, Any]) -> Usage | None:
    if "prompt_tokens" in fields:
        prompt, details = fields["prompt_tokens"], fields.get("prompt_tokens_details")
        completion = fields.get("completion_tokens") or 0
    elif "cache_read_input_tokens" in fields:  # the messages API, whose input_tokens leave the cached ones out
        cached, uncached = fields.get("cache_read_input_tokens") or 0, fields.get("input_tokens")
        if type(uncached) is not int or type(cached) is not int:
            return None
        prompt, details = uncached + cached, {"cached_tokens": cached or None}
        completion = fields.get("output_tokens") or 0
    else:
        prompt, details = fields.get("input_tokens"), fields.get("input_tokens_details")
        completion = fields.get("output_tokens") or 0
    if type(prompt) is not int or type(completion) is not int or prompt < 0 or completion < 0:
        return None
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(prompt, completion, cached if type(cached) is int and cached >= 0 else None)
