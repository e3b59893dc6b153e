"""The names of all keys. A replica's carry its hash tag, so that a cluster keeps them in one place."""

from __future__ import annotations


def presence(namespace: str) -> str:
    """The Stream of all routers' beats."""
    return f"{{{namespace}}}:presence"


def expected(namespace: str, replica: str) -> str:
    """The Stream of what was sent to a replica."""
    return f"{{{namespace}:{replica}}}:expected"
