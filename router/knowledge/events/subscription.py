"""One replica's KV events: live batches, and replays of those that were missed, into the stream that orders them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from kvroute.router.knowledge.events.intake import Intake
from kvroute.router.knowledge.events.replay import REPLAYS_AT_ONCE, Patience, Replayer, Replays, Sink
from kvroute.router.knowledge.events.sources import Found, Source
from kvroute.router.knowledge.events.subscriber import Hearsay, Subscriber, open_context

QUIET_SECONDS = 2.0
"""So long after the last batch it is asked whether that was the last: a publisher that drops batches says nothing."""


class Wires:
    """What all subscriptions of a process share. Make it on the event loop."""

    def __init__(self, intake: Intake | None = None, *, replays: int = REPLAYS_AT_ONCE) -> None:
        """`replays`: most replays at the same time."""
        self.context = open_context()
        self.intake = intake or Intake(asyncio.get_running_loop())
        self.slots = asyncio.Semaphore(replays)

    def close(self) -> None:
        """End the context, at once; after the subscriptions."""
        self.context.destroy(linger=0)


class Status(msgspec.Struct, frozen=True):
    """One subscription, to be shown."""

    source: Source
    connected: bool
    last_message: float | None
    """When the last batch came, by the subscription's clock [s]."""
    asking: bool
    """A replay is under way."""
    heard: Hearsay
    replays: Replays


class Subscription:
    """Feeds `stream` from `source`, from `open` until `close`."""

    def __init__(
        self,
        source: Source,
        stream: Sink,
        wires: Wires,
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        quiet_seconds: float = QUIET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Where the engine did not tell of its replay buffer itself, `stream` does not believe an empty one."""
        self._source = source
        self._stream = stream
        stream.believes_empty = source.found is Found.ENGINE
        self._intake = wires.intake
        self._clock = clock
        self._quiet_seconds = quiet_seconds
        self._subscriber = Subscriber(source.events, source.topic, wires.context, wires.intake, self)
        self._replayer = Replayer(
            source, stream, wires.context, wires.intake, wires.slots, self.go_on, patience=patience, clock=clock
        )
        self._last: float | None = None
        self._checked = True
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Subscribe; connecting, and connecting again, goes by itself, also where no socket can be had at first.

        Raises:
            zmq.ZMQError: the address is none.
        """
        self._subscriber.open()
        self._timer = asyncio.get_running_loop().call_later(self._quiet_seconds, self._tick)

    def close(self) -> None:
        """Release the sockets at once; the stream is told nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._subscriber.close()
        self._replayer.close()

    @property
    def status(self) -> Status:
        """As of now."""
        subscriber, replayer = self._subscriber, self._replayer
        return Status(
            self._source, subscriber.connected, self._last, replayer.asking, subscriber.counts, replayer.counts
        )

    def check(self) -> None:
        """Ask whether batches were missed, though none that came since shows it."""
        self._replayer.look(check=True)

    def message(self, sequence: int, payload: bytes) -> None:
        """A batch was published."""
        stream = self._stream
        now = self._last = self._clock()
        self._checked = False
        stream.live(sequence, payload, now)
        self.go_on()

    def go_on(self) -> None:
        """Ask for what the stream wants and have it do what it has left to do; also when others told it something."""
        stream = self._stream
        if stream.wants is not None and not self._replayer.asking:
            self._replayer.look()
        if stream.busy:
            self._intake.look(self)

    def read_one(self) -> bool:
        """Let the stream go on with what it has, a little at a time."""
        if self._timer is None or not self._stream.busy:
            return False
        self._stream.step(self._clock())
        if self._stream.wants is not None:
            self._replayer.look()
        return True

    def connection(self, connected: bool) -> None:
        """The subscription was made, perhaps again: what was published before it counts is asked for.

        And once more when it is quiet: the engine may answer that question before it has seen the subscription.
        """
        if connected:
            self._checked = False
            self.check()

    def _tick(self) -> None:
        quiet = self._last is None or self._clock() - self._last >= self._quiet_seconds
        if self._subscriber.connected and quiet and not self._checked:
            self._checked = True
            self.check()
        self.go_on()
        self._timer = asyncio.get_running_loop().call_later(self._quiet_seconds, self._tick)
