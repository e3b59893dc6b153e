"""What is followed of one replica's KV events: source, stream and subscription, and how far the knowledge goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from kvroute.router.core.replica import Replica
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.events import sources
from kvroute.router.knowledge.events.stream import Stream
from kvroute.router.knowledge.events.subscription import Subscription, Wires
from kvroute.router.knowledge.sharing.observed_log import Progress

GRACE_SECONDS = 1.0
"""A subscription may be broken, or behind, for so long before what is told is no longer taken to be all."""


class Heard:
    """One replica's."""

    __slots__ = (
        "_broken_since", "_clock", "_emptied", "about", "block_tokens", "foreign", "mismatched", "replica", "source",
        "stream", "subscription", "task",
    )  # fmt: skip

    def __init__(self, replica: Replica, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._broken_since: float | None = None
        self._emptied = 0
        self.replica = replica
        self.source: sources.Source | None = None
        """Where it publishes; None: nowhere that we know of."""
        self.mismatched = False
        """It was said that its blocks cannot be told in ours."""
        self.block_tokens = 0
        """Size of our blocks [tokens]."""
        self.stream: Stream | None = None
        self.subscription: Subscription | None = None
        self.foreign = False
        """Another router follows its events, and shares what they tell."""
        self.task: asyncio.Task[None] | None = None
        """Looks for its source."""
        self.about = "its lens is being chosen"
        """For people: where the knowledge of it comes from, and why."""

    def subscribe(self, stream: Stream, wires: Wires, progress: Progress | None) -> None:
        """Follow its events; `progress`: from where another router was, whose knowledge is here already.

        Raises:
            zmq.ZMQError: the address is none.
        """
        assert self.source is not None
        if progress is not None and progress.next:
            stream.restore(progress.next, progress.stamp, progress.source)
        self.stream, self.foreign = stream, False
        self._broken_since, self._emptied = None, 0
        subscription = Subscription(self.source, stream, wires, clock=self._clock)
        try:
            subscription.open()
        except zmq.ZMQError:
            self.stream = None
            raise
        self.subscription = subscription

    def unsubscribe(self) -> None:
        """Follow them no more."""
        if self.subscription is not None:
            self.subscription.close()
        self.stream = self.subscription = None

    def go_on(self) -> None:
        """Have done, a little a turn, what the stream has left to do, and ask for what it wants."""
        if self.subscription is not None:
            self.subscription.go_on()

    def emptied(self) -> bool:
        """Whether the engine's cache, not just our knowledge of it, has become empty since this was last asked."""
        if self.stream is None:
            return False
        counts = self.stream.counts
        before, self._emptied = self._emptied, counts.cleared + counts.restarts
        return self._emptied > before

    def effective(self) -> Source | None:
        """How far the knowledge goes now: what the stream says, unless it has not been whole for a while."""
        stream, subscription = self.stream, self.subscription
        if stream is None:
            return None
        now = self._clock()
        if subscription is not None and subscription.status.connected and not stream.behind:
            self._broken_since = None
        elif self._broken_since is None:
            self._broken_since = now
        broken = self._broken_since is not None and now - self._broken_since > GRACE_SECONDS
        return Source.RECOVERING if broken and stream.source is Source.EXACT else stream.source
