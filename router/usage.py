"""The `usage` object at the end of a reply: found by a look at its last bytes, never by parsing the reply."""

from __future__ import annotations

import json
from typing import Any

import msgspec

_MARK = b'"usage":'
_LONGEST = 2048
_decode = json.JSONDecoder().raw_decode


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
    start = at + len(_MARK)
    text = tail[start : start + _LONGEST].decode("utf-8", "replace").lstrip()
    try:
        fields, _ = _decode(text)
    except (ValueError, RecursionError):
        return None
    return _usage(fields) if isinstance(fields, dict) else None


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
