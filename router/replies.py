"""The answers that the router gives itself, in vLLM's shapes."""

from __future__ import annotations

import json as stdlib

import orjson

from kvroute.router.dataplane.contract import Headers, Reply
from kvroute.router.errors import ClientError, NoReplica


def error(status: int, message: str, kind: str, param: str | None = None, headers: Headers = ()) -> Reply:
    """vLLM's error object."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": status}}
    return Reply(status, dumped(body), headers)


def dumped(value: object) -> bytes:
    """The JSON of a value that a client's words may stand in."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # lone surrogates, which the engine takes too
        return stdlib.dumps(value).encode()


def client_error(fault: ClientError) -> Reply:
    """The client's fault, told in vLLM's words."""
    if not fault.kind:
        return json({"detail": fault.message}, fault.status)
    return error(fault.status, fault.message, fault.kind, fault.param)


def no_replica(fault: NoReplica) -> Reply:
    """404 in vLLM's shape where nobody serves the model, else 503 with Retry-After."""
    if fault.status == 404:
        return error(404, fault.message, "NotFoundError", "model")
    headers = ((b"Retry-After", str(fault.retry_after or 1).encode()),)
    return error(fault.status, fault.message, "ServiceUnavailableError", None, headers)


def json(value: object, status: int = 200) -> Reply:
    """Any JSON value."""
    return Reply(status, orjson.dumps(value))
