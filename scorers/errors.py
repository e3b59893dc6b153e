"""The root of kvroute's errors, and the one the scorers raise; the whole tree stands in `kvroute.router.errors`."""

from __future__ import annotations


class KvrouteError(Exception):
    """Base of everything kvroute raises on purpose."""


class PluginError(KvrouteError):
    """A scorer or policy cannot be loaded or breaks its contract. `distribution` names the package it came from."""

    def __init__(self, message: str, *, distribution: str | None = None) -> None:
        super().__init__(message)
        self.distribution = distribution
