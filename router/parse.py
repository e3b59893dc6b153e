"""A request body, read once: which kind of work it is, and the fields that routing needs."""

from __future__ import annotations

import enum
import json
from typing import Any

import msgspec
import orjson

from kvroute.router.errors import ClientError


class Kind(enum.Enum):
    """What a serving path asks for; decides where its prompt stands."""

    COMPLETION = "completion"
    """`prompt`: a string, a list of strings, token ids, or a list of lists of token ids."""
    CHAT = "chat"
    """`messages` and `tools`."""
    RESPONSES = "responses"
    """`instructions`, `input` (a string or items) and `tools`."""
    MESSAGES = "messages"
    """Anthropic's shape: `system`, `messages` and `tools`."""
    EMBEDDING = "embedding"
    """`input` (like `prompt`) or `messages`."""
    OTHER = "other"
    """A path whose prompt we do not read: routed by load alone."""


MOST_SEQUENCES = 10_000
"""More than any engine runs: what a client asks beyond counts as this many."""

PATHS: dict[bytes, Kind] = {
    b"/v1/completions": Kind.COMPLETION,
    b"/v1/chat/completions": Kind.CHAT,
    b"/v1/responses": Kind.RESPONSES,
    b"/v1/messages": Kind.MESSAGES,
    b"/v1/embeddings": Kind.EMBEDDING,
}


class Body(msgspec.Struct, gc=False):
    """The fields of a JSON body that routing reads. `fields` is the whole parsed object."""

    kind: Kind
    fields: dict[str, Any]
    model: str | None
    stream: bool
    sequences: int
    cache_salt: str | None
    priority: int
    session: str | None
    max_output_tokens: int | None


def parse(path: bytes, data: bytes) -> Body:
    """Read one body.

    Raises:
        ClientError: 400, in the words and shape vLLM would use, when the body is not a JSON object or a field that
            routing needs has a wrong type.
    """
    fields = _loaded(data)
    if not isinstance(fields, dict):
        raise _not_an_object(fields)
    model = fields.get("model")
    if model is not None and not isinstance(model, str):
        raise _invalid("string_type", "body.model", "Input should be a valid string", _shown(model))
    return _body(PATHS.get(path, Kind.OTHER), fields, model)


def glance(data: bytes) -> Body | None:
    """Look at a JSON body that the engine alone judges; None when it is no JSON object for the engine either."""
    try:
        fields = _loaded(data)
    except ClientError:
        return None
    if not isinstance(fields, dict):
        return None
    model = fields.get("model")
    return _body(Kind.OTHER, fields, model if isinstance(model, str) else None)


def strip_transfer(fields: dict[str, Any]) -> bool:
    """Take out `kv_transfer_params` wherever an engine reads it, also by its side doors. True when there was one."""
    places = [fields]
    for name in ("vllm_xargs", "extra_args", "sampling_params"):
        place = fields.get(name)
        if type(place) is dict:
            places.append(place)
            inner = place.get("extra_args")
            if type(inner) is dict:
                places.append(inner)
    return [place.pop("kv_transfer_params", places) is not places for place in places].count(True) > 0


def form_model(data: bytes) -> str:
    """The field `model` of a multipart form; "" where there is none."""
    at = data.find(b'name="model"')
    start = data.find(b"\r\n\r\n", at) + 4
    end = data.find(b"\r\n", start, start + 512)
    return data[start:end].decode("utf-8", "replace") if at >= 0 and start > 3 and end > start else ""


def _loaded(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _as_the_engine_reads(data)


def _body(kind: Kind, fields: dict[str, Any], model: str | None) -> Body:
    get = fields.get
    n = get("n")
    sequences = min(n, MOST_SEQUENCES) if type(n) is int and n > 1 else 1
    if kind is Kind.COMPLETION or kind is Kind.EMBEDDING:
        prompt = get("prompt") if kind is Kind.COMPLETION else get("input")
        if type(prompt) is list and prompt and type(prompt[0]) is not int:
            sequences = min(sequences * len(prompt), MOST_SEQUENCES)
    salt = get("cache_salt")
    priority = get("priority")
    session = get("session_id") or get("user")
    limit = get("max_completion_tokens") or get("max_tokens") or get("max_output_tokens")
    return Body(
        kind,
        fields,
        model,
        get("stream") is True,
        sequences,
        salt if type(salt) is str else None,
        priority if type(priority) is int else 0,
        session if type(session) is str else None,
        limit if type(limit) is int else None,
    )


def _as_the_engine_reads(data: bytes) -> Any:
    """The standard library's reading, which the engine uses: it also takes NaN, lone surrogates and UTF-16."""
    if not data:
        return None
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        place = f"body.{error.pos}"
        context = f", 'ctx': {{'error': {error.msg!r}}}"
        raise _invalid("json_invalid", place, "JSON decode error", "<dict of 0 items>", context) from error
    except (ValueError, RecursionError) as error:
        raise ClientError(400, "There was an error parsing the body", kind="") from error


def _not_an_object(value: Any) -> ClientError:
    if value is None:
        return _invalid("missing", "body", "Field required", "None")
    message = "Input should be a valid dictionary or object to extract fields from"
    return _invalid("model_attributes_type", "body", message, _shown(value))


def _shown(value: Any) -> str:
    """A value as the engine shows it: text as it is, of lists and objects only the size."""
    match value:
        case str():
            return value
        case list() | dict():
            return f"<{type(value).__name__} of {len(value)} items>"
        case _:
            return repr(value)


def _invalid(fault: str, place: str, message: str, shown: str, context: str = "") -> ClientError:
    """A validation error in the words of vLLM 0.32, so that a client cannot tell who refused."""
    detail = f"{{'type': '{fault}', 'loc': '{place}', 'msg': '{message}', 'input': {shown!r}{context}}}"
    return ClientError(400, f"1 validation error:\n  {detail}", kind="Bad Request", param=place)
