"""What an engine says it serves: base models, LoRA adapters, context length, version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.fleetwatch.engine_client import EngineClient, Unreachable


class Served(msgspec.Struct, frozen=True):
    """What one endpoint serves."""

    models: tuple[str, ...]
    """Names of base models, aliases included, in the engine's order."""
    adapters: Mapping[str, str] = msgspec.field(default_factory=dict)
    """LoRA adapter -> its base model."""
    max_model_len: int | None = None
    """Longest context [tokens]; the least, where models differ."""
    version: str | None = None
    entries: tuple[Mapping[str, Any], ...] = ()
    """The engine's own entries of `/v1/models`, for the union that the router serves. Not compared."""

    def same_as(self, other: Served) -> bool:
        """Equal but for time stamps and ids in `entries`."""
        return (self.models, self.adapters, self.max_model_len, self.version) == (
            other.models,
            other.adapters,
            other.max_model_len,
            other.version,
        )

    def root(self, model: str) -> str | None:
        """Where the engine says that a model comes from: a path or a hub's id."""
        found = next((entry.get("root") for entry in self.entries if entry.get("id") == model), None)
        return found if isinstance(found, str) else None

    def only(self, models: tuple[str, ...]) -> Served:
        """As if just `models` were served, as an operator's `model=` demands; no models: unchanged."""
        if not models:
            return self
        adapters = {name: base for name, base in self.adapters.items() if name in models or base in models}
        bases = tuple(name for name in models if name not in adapters)
        entries = tuple(entry for entry in self.entries if entry.get("id") in models or entry.get("id") in adapters)
        return msgspec.structs.replace(self, models=bases, adapters=adapters, entries=entries)


async def discover(client: EngineClient, endpoint: Endpoint, timeout: float = 5.0) -> Served:  # noqa: ASYNC109
    """Ask `/v1/models` and `/version`.

    Raises:
        Unreachable: `/v1/models` gave no usable answer; the message says what to do about a missing API key.
    """
    status, body = await client.get(endpoint, "/v1/models", timeout)
    if status in (401, 403):
        raise Unreachable(f"GET /v1/models answered {status}: name the engine's API key with --backend-api-key-env")
    if status != 200:
        raise Unreachable(f"GET /v1/models answered {status}")
    served = read_models(body)
    return msgspec.structs.replace(served, version=await _version(client, endpoint, timeout))


def read_models(body: bytes) -> Served:
    """Read a `/v1/models` answer. Raises Unreachable when it is not one."""
    try:
        entries = orjson.loads(body)["data"]
        models = [entry["id"] for entry in entries if not entry.get("parent")]
        adapters = {entry["id"]: entry["parent"] for entry in entries if entry.get("parent")}
        lengths = [entry["max_model_len"] for entry in entries if type(entry.get("max_model_len")) is int]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreachable(f"GET /v1/models did not answer a list of models: {error!r}") from error
    if not all(type(name) is str for name in (*models, *adapters, *adapters.values())):
        raise Unreachable("GET /v1/models answered a model without a name")
    return Served(tuple(models), adapters, min(lengths, default=None), None, tuple(entries))


async def _version(client: EngineClient, endpoint: Endpoint, timeout: float) -> str | None:  # noqa: ASYNC109
    """The engine's version, or None: engines that are not vLLM need not have the path."""
    try:
        status, body = await client.get(endpoint, "/version", timeout)
        version = orjson.loads(body)["version"] if status == 200 else None
    except (Unreachable, ValueError, KeyError, TypeError):
        return None
    return version if type(version) is str else None
