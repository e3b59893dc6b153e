"""Who follows what replicas publish of their caches, as the membership and the observers of requests know it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from kvroute.router.core.replica import Replica
from kvroute.router.fleetwatch.backend import Backend


class Hears(Protocol):
    """Who follows what replicas publish of their caches."""

    def serves(
        self, model: str, engine: str, root: str | None, block_tokens: int | None, context_tokens: int | None
    ) -> None:
        """An engine serves this model, which it says comes from `root`, in blocks of so many tokens; prompt and answer
        have at most `context_tokens`."""
        ...

    def served(self, replica: Replica, backend: Backend, life: float) -> None:
        """A replica serves, for the first time or again. `life`: when its engine started [s since 1970], or 0."""
        ...

    def left(self, replica: Replica) -> None:
        """A replica is gone."""
        ...

    def restarted(self, replica: Replica) -> None:
        """Its engine's process is another one; `served` tells since when, where that is known."""
        ...

    def reset(self, replica: Replica) -> bool:
        """Requests find nothing of what it told to hold: its cache was reset. True: that is acted on."""
        ...

    def sent(self, replica: Replica, keys: Sequence[int]) -> None:
        """A prompt of these blocks goes there."""
        ...

    def tells(self, replica: Replica) -> Tells:
        """What is known of its events."""
        ...


class Tells(msgspec.Struct, frozen=True):
    """What is known of a replica's events."""

    tokenized: bool = False
    """Its prompts are keyed by tokens."""
    events_seen: bool = False
    """KV events came from it."""
    mismatched: bool = False
    """Their blocks cannot be told in ours."""


class Deaf:
    """Follows nobody."""

    def serves(
        self, model: str, engine: str, root: str | None, block_tokens: int | None, context_tokens: int | None
    ) -> None:
        """Not used."""

    def served(self, replica: Replica, backend: Backend, life: float) -> None:
        """Not used."""

    def left(self, replica: Replica) -> None:
        """Not used."""

    def restarted(self, replica: Replica) -> None:
        """Not used."""

    def reset(self, replica: Replica) -> bool:
        """Not used."""
        return False

    def sent(self, replica: Replica, keys: Sequence[int]) -> None:
        """Not used."""

    def tells(self, replica: Replica) -> Tells:
        """Nothing."""
        return Tells()
