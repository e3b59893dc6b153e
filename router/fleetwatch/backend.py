"""One engine as the operator wrote it: a URL and, after commas, its options."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import msgspec

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.errors import ConfigError
from kvroute.scorers.contract import Role

DEFAULT_SLOTS = 256
"""vLLM's usual `max_num_seqs`; `/metrics` does not tell it."""

ROLES = {"both": Role.BOTH, "prefill": Role.PREFILL, "decode": Role.DECODE}


class Backend(msgspec.Struct, frozen=True):
    """An engine to route to. `models` overrides what `/v1/models` says (empty: believe the engine)."""

    endpoint: Endpoint
    role: Role = Role.BOTH
    models: tuple[str, ...] = ()
    slots: int = DEFAULT_SLOTS
    """Most sequences it runs at once, its `--max-num-seqs`."""
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    """What the operator wrote as `label.KEY=VALUE`, for scorers to read."""
    events: str | None = None
    """Where rank 0 publishes its KV events, `tcp://HOST:PORT` or `ipc://PATH`; None: the engine is asked."""
    replay: str | None = None
    """Where lost events can be asked for again, in the same form."""


def parse_backend(text: str, key: str = "backend") -> Backend:
    """Read `http://10.0.0.5:8000,role=prefill,model=m,label.zone=a,slots=256`. `model` may be given several times.

    Raises:
        ConfigError: naming `key`, the exact text, what is wrong with it and what to write instead.
    """
    url, *options = (part.strip() for part in text.strip().split(","))
    role, slots = Role.BOTH, DEFAULT_SLOTS
    models: list[str] = []
    sockets: dict[str, str] = {}
    labels: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not value:
            raise _wrong(key, text, f"option {option!r} has no value; write NAME=VALUE, e.g. role=prefill")
        if name == "role":
            if value not in ROLES:
                raise _wrong(key, text, f"role {value!r} is not known; use one of {', '.join(ROLES)}")
            role = ROLES[value]
        elif name == "model":
            models.append(value)
        elif name == "slots":
            slots = _slots(key, text, value)
        elif name in ("events", "replay"):
            sockets[name] = _socket(key, text, name, value)
        elif name.startswith("label.") and len(name) > len("label."):
            labels[name.removeprefix("label.")] = value
        else:
            raise _wrong(
                key, text, f"option {name!r} is not known; use role, model, slots, events, replay or label.NAME"
            )
    if "replay" in sockets and "events" not in sockets:
        raise _wrong(key, text, "replay is of no use without events; give both, or neither and the engine is asked")
    return Backend(_endpoint(key, text, url), role, tuple(models), slots, labels, **sockets)


def check_distinct(backends: list[Backend], key: str = "backend") -> list[Backend]:
    """The same backends. Raises ConfigError when two of them name the same endpoint."""
    seen: set[str] = set()
    for backend in backends:
        name = backend.endpoint.name
        if name in seen:
            raise ConfigError(f"{key}: {name} is given twice; each engine may be listed once")
        seen.add(name)
    return backends


def _endpoint(key: str, text: str, url: str) -> Endpoint:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _wrong(key, text, f"{error}; write e.g. http://10.0.0.5:8000 or http://[::1]:8000") from error
    if parts.scheme not in ("http", "https"):
        raise _wrong(key, text, "the URL must start with http:// or https://")
    _check_parts(key, text, parts)
    assert parts.hostname is not None
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    if port == 0:
        raise _wrong(key, text, "port 0 cannot be connected to; give the port that the engine listens on")
    base = parts.path.rstrip("/")
    if base.endswith("/v1"):
        raise _wrong(key, text, "leave /v1 off: clients' paths already carry it")
    return Endpoint(parts.hostname, port, parts.scheme == "https", base.encode("ascii"))


def _check_parts(key: str, text: str, parts: SplitResult) -> None:
    if not parts.hostname:
        raise _wrong(key, text, "the URL names no host; write e.g. http://10.0.0.5:8000")
    if parts.username is not None or parts.password is not None:
        raise _wrong(key, text, "credentials in the URL are not used; see --backend-api-key-env")
    if parts.query or parts.fragment:
        raise _wrong(key, text, "the URL must not carry a query or a fragment")
    where = parts.netloc + parts.path
    if not (where.isascii() and where.isprintable()) or " " in where:
        raise _wrong(
            key, text, "the URL must be plain ASCII without spaces; percent-encode the path, punycode the host"
        )


def _slots(key: str, text: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()) or int(value) < 1:
        raise _wrong(
            key, text, f"slots must be a whole number from 1 on, not {value!r}; give the engine's max_num_seqs"
        )
    return int(value)


def _socket(key: str, text: str, name: str, value: str) -> str:
    scheme, slashes, rest = value.partition("://")
    if slashes and scheme == "ipc" and rest:
        return value
    host, colon, port = rest.rpartition(":")
    if not (slashes and scheme == "tcp" and host and colon and port.isascii() and port.isdigit()) or int(port) > 65535:
        raise _wrong(key, text, f"{name} must be tcp://HOST:PORT or ipc://PATH, not {value!r}")
    if host in ("*", "0.0.0.0"):
        raise _wrong(key, text, f"{name} must name a host to connect to; {host} is where the engine listens")
    return value


def _wrong(key: str, text: str, what: str) -> ConfigError:
    return ConfigError(f"{key}: {text!r}: {what}")
