"""Where the shared store is and how to be let in: a URL without secrets, and secrets from the environment or a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from kvroute.router.errors import ConfigError

Login: TypeAlias = tuple[str | None, str | None]
"""User and password."""
Mode: TypeAlias = Literal["standalone", "sentinel", "cluster"]
_SCHEMES: dict[str, tuple[Mode, bool]] = {
    "redis": ("standalone", False),
    "rediss": ("standalone", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS: dict[Mode, int] = {"standalone": 6379, "sentinel": 26379, "cluster": 6379}


class Place(msgspec.Struct, frozen=True):
    """A Redis or Valkey server, a cluster, or what sentinels guard."""

    mode: Mode
    nodes: tuple[tuple[str, int], ...]
    """(host, port): of the server, of the cluster's nodes known at the start, or of the sentinels."""
    tls: bool = False
    service: str = ""
    """What the sentinels call the server."""
    database: int = 0
    user: str | None = None
    password: str | None = None
    logins: tuple[Login, ...] = ((None, None),)
    """What the sentinels themselves are told, in the order that it is tried."""
    ca_file: str | None = None
    """PEM file of the authority that signed the server's certificate; None = the system's."""

    def __repr__(self) -> str:
        """For messages: who and where, without secrets."""
        nodes = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        return f"{self.mode} {nodes}" + (f"/{self.service}" if self.service else "")

    __str__ = __repr__


def place(
    url: str,
    *,
    user: str | None = None,
    password_env: str | None = None,
    password_file: str | None = None,
    sentinel_user: str | None = None,
    sentinel_password_env: str | None = None,
    sentinel_password_file: str | None = None,
    ca_file: str | None = None,
) -> Place:
    """The place that a URL names: `redis://host:port/database`, `redis+cluster://host:port,host:port`,
    `redis+sentinel://host:port,host:port/service`; `rediss` for TLS.

    Sentinels are told the `sentinel_` user and password. Without these they are told the server's, and then nothing.

    Raises:
        ConfigError: the URL is none of these, carries a password, or a secret cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"redis.url: starts with none of {', '.join(name + '://' for name in _SCHEMES)}")
    mode, tls = _SCHEMES[parts.scheme]
    login, _, hosts = parts.netloc.rpartition("@")
    if ":" in login:
        raise ConfigError("redis.url: carries a password; put it in redis.password_env or redis.password_file instead")
    service, database = _path(mode, parts)
    user = user or unquote(login) or None
    password = _password(password_env, password_file)
    own = sentinel_user, _password(sentinel_password_env, sentinel_password_file, "sentinel_")
    logins = [own] if any(own) or mode != "sentinel" else [(user, password), (None, None)]
    return Place(
        mode=mode,
        nodes=tuple(_node(node, _PORTS[mode]) for node in hosts.split(",")),
        tls=tls,
        service=service,
        database=database,
        user=user,
        password=password,
        logins=tuple(dict.fromkeys(logins)),
        ca_file=ca_file,
    )


def _path(mode: Mode, parts: SplitResult) -> tuple[str, int]:
    """(service, database) of the URL's path."""
    path = parts.path.strip("/")
    if parts.query or parts.fragment:
        raise ConfigError("redis.url: takes nothing after the path")
    if mode == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ConfigError("redis.url: sentinels need the name of the service: redis+sentinel://host:port/NAME")
    else:
        service = ""
    if mode == "cluster" and path:
        raise ConfigError("redis.url: a cluster has one database, without a number")
    if path and not path.isdecimal():
        raise ConfigError(f"redis.url: {path!r} is no database number")
    return service, int(path or 0)


def _node(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname:
            return parts.hostname, parts.port or port
    except ValueError:
        pass
    raise ConfigError(f"redis.url: {text!r} is no host:port")


def _password(env: str | None, file: str | None, of: str = "") -> str | None:
    if env is not None and file is not None:
        raise ConfigError(f"redis.{of}password_file: redis.{of}password_env is set as well")
    if env is not None:
        if env not in os.environ:
            raise ConfigError(f"redis.{of}password_env: there is no environment variable {env}")
        return os.environ[env]
    if file is None:
        return None
    try:
        return Path(file).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"redis.{of}password_file: cannot be read: {type(error).__name__}") from error
