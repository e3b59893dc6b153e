"""How the stand-in answers: JSON replies, vLLM's error shapes, and the checks that come before any work."""

from __future__ import annotations

import json
from typing import Any

import orjson
from aiohttp import web

from kvroute.router.testing.options import Options


class Refusal(Exception):
    """A request that is answered with an error in vLLM's shape."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    def response(self) -> web.Response:
        """The error as vLLM words it."""
        if not self.kind:  # FastAPI's own shape
            return reply({"detail": self.message}, self.status)
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return reply({"error": error}, self.status)


def reply(body: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


def event(data: object) -> bytes:
    """One SSE event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def named_event(data: dict[str, Any]) -> bytes:
    """One SSE event of the responses or messages API: its type stands in an `event:` line too."""
    return b"event: " + str(data["type"]).encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


def _validation(kind: str, where: str, message: str, given: str, context: str = "") -> Refusal:
    detail = f"{{'type': '{kind}', 'loc': '{where}', 'msg': '{message}', 'input': '{given}'{context}}}"
    return Refusal(400, f"1 validation error:\n  {detail}", "Bad Request", where)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        Refusal: 400, worded as vLLM's validation does.
    """
    if request.content_type != "application/json" and request.headers.get("Content-Type") is not None:
        raise Refusal(
            400, "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", "Bad Request"
        )
    data = await request.read()
    if not data:
        raise _validation("missing", "body", "Field required", "None")
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        fields = _standard_json(data)
    if not isinstance(fields, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        size = f"<{type(fields).__name__} of {len(fields)} items>" if isinstance(fields, list) else repr(fields)
        raise _validation("model_attributes_type", "body", message, size)
    return fields


def _standard_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        context = f", 'ctx': {{'error': '{error.msg}'}}"
        raise _validation(
            "json_invalid", f"body.{error.pos}", "JSON decode error", "<dict of 0 items>", context
        ) from error
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "There was an error parsing the body", "") from error


def demand(fields: dict[str, Any], name: str) -> Any:
    """A field that must be there."""
    if fields.get(name) is None:
        raise _validation("missing", f"body.{name}", "Field required", f"<dict of {len(fields)} items>")
    return fields[name]


def demand_messages(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The field `messages`, a list of objects."""
    messages = demand(fields, "messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _validation("list_type", "body.messages", "Input should be a valid list", type(messages).__name__)
    return messages


def served_model(fields: dict[str, Any], options: Options) -> str:
    """The model that the request names, or the only one; an unknown one is vLLM's 404."""
    name = fields.get("model")
    if not name:
        return options.model
    if name not in options.models:
        valid = ", ".join(options.models)
        message = f"The model `{name}` does not exist. Valid aliases: {valid}."
        raise Refusal(404, message, "NotFoundError", "model")
    return str(name)


def check_sampling(fields: dict[str, Any]) -> None:
    """The checks that vLLM's sampling parameters make."""
    temperature = fields.get("temperature")
    if isinstance(temperature, int | float) and temperature < 0:
        value = float(temperature)
        message = f"temperature must be non-negative, got {value}. (parameter=temperature, value={value})"
        raise Refusal(400, message, param="temperature")
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        limit = fields.get(name)
        if isinstance(limit, int) and limit < 1:
            message = f"max_tokens must be at least 1, got {limit}. (parameter=max_tokens, value={limit})"
            raise Refusal(400, message, param="max_tokens")
    salt = fields.get("cache_salt")
    if salt is not None and not (isinstance(salt, str) and salt):
        message = "Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)"
        raise Refusal(400, message, param="cache_salt")


def asked_rank(request: web.Request, options: Options) -> int | None:
    """The data-parallel rank that the request asks for; a header that is no number is ignored, as vLLM ignores it."""
    rank = request.headers.get("X-data-parallel-rank", "")
    if not rank.lstrip("-").isdigit():
        return None
    size = options.data_parallel_size
    if not 0 <= int(rank) < size:
        raise Refusal(400, f"data_parallel_rank {int(rank)} is out of range [0, {size}).")
    return int(rank)


def check_length(tokens: int, options: Options) -> None:
    """The prompt must leave room for one token."""
    most = options.context_tokens
    if tokens >= most:
        raise Refusal(
            400,
            f"This model's maximum context length is {most} tokens. However, your prompt contains {tokens} input "
            "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
            f"prompt. (parameter=input_tokens, value={tokens})",
            param="input_tokens",
        )
