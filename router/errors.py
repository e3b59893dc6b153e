"""Errors, named by who is at fault.

KvrouteError
    ClientError      the request is wrong: 4xx, never reaches a replica
    NoReplica        nothing can take the request now, or nobody serves its model
    UpstreamError    a replica failed: connect, protocol, cut, timeout
    PluginError      a scorer or policy of the operator's is wrong; names its distribution
    ConfigError      the configuration is wrong; names the exact key
"""

from __future__ import annotations

from kvroute.scorers.errors import KvrouteError, PluginError

__all__ = ["ClientError", "ConfigError", "KvrouteError", "NoReplica", "PluginError", "UpstreamError"]


class ClientError(KvrouteError):
    """The request is wrong. Carries what vLLM's error shape needs; no `kind`: the bare `{"detail": ...}` shape."""

    def __init__(self, status: int, message: str, *, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param


class NoReplica(KvrouteError):
    """No replica can take the request: 404 when nobody serves the model, else 503 with Retry-After."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


class UpstreamError(KvrouteError):
    """A replica failed before or while it answered."""


class ConfigError(KvrouteError):
    """The configuration is wrong; the message starts with the exact key."""
