"""One replica's observed log among the Streams that are followed, and whom it concerns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from kvroute.router.core.changes import Change
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.observed_follower import ObservedFollower
from kvroute.router.knowledge.sharing.observed_log import Progress
from kvroute.router.knowledge.sharing.store import Entry, EntryId
from kvroute.router.knowledge.sharing.turns import Turn


class Listener(Protocol):
    """The router, as far as its replicas' events concern it."""

    def ingest(self, replica: str, progress: Progress | None) -> None:
        """Subscribe to the replica's events and go on from `progress`; None: end that, another router does it now."""

    def sourced(self, replica: str, source: Source) -> None:
        """How far what another router observes there may be believed."""

    def changed(self, replica: str, changes: Sequence[Change]) -> None:
        """Another router's events changed what is observed there."""

    def doubted(self, replica: str) -> None:
        """Requests find nothing of what its events told, which we follow: its cache seems to be empty."""


class Line:
    """One replica's log, as the follower of its Stream."""

    def __init__(
        self, replica: str, follower: ObservedFollower, listener: Listener, astray: Callable[[Line], None]
    ) -> None:
        """`astray` is called when entries do not follow on what is known."""
        self.replica = replica
        self.follower = follower
        self.looked = False
        """It was read, or there was nothing to read, at least once."""
        self.outlived = -math.inf
        """Events up to here are of an earlier life of the engine, as far as we were told [s since 1970]."""
        self._listener = listener
        self._astray = astray
        self._source: Source | None = None

    @property
    def key(self) -> str:
        return self.follower.key

    @property
    def after(self) -> EntryId:
        return self.follower.after

    async def entries(self, entries: Sequence[Entry]) -> None:
        """Take them in, as far as they follow."""
        turn = Turn()
        for entry in entries:
            if not self.follower.take([entry]):
                self._astray(self)
                break
            await turn.give()
        self.tell_source()

    def tell_source(self) -> None:
        """Say how far the row may be believed, where that has changed."""
        if not self.follower.writing and self.follower.source is not self._source:
            self._source = self.follower.source
            self._listener.sourced(self.replica, self._source)

    def written(self) -> None:
        """From here on the engine's own events tell."""
        self._source = None
