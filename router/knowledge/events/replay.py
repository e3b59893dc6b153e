"""Asks a replica again for the batches that were missed: one question at a time, each on a socket of its own."""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import zmq

from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.knowledge.events.frames import SEQUENCE_BYTES, Frames
from kvroute.router.knowledge.events.intake import Intake
from kvroute.router.knowledge.events.sources import Source
from kvroute.router.knowledge.events.subscriber import MAX_MESSAGE_BYTES, set_options

log = logging.getLogger(__name__)

QUEUED_BATCHES = 2000
"""Batches of an answer that wait here at most. An engine that sends faster drops some, which are asked for again."""
REPLAYS_AT_ONCE = 4
"""Over all replicas of a router, since each may hold `QUEUED_BATCHES`."""
_BATCH_BYTES = 16 << 10
_END = b"\xff" * SEQUENCE_BYTES


class Sink(Protocol):
    """Who puts a replica's batches in order."""

    @property
    def next(self) -> int:
        """Sequence number of the batch that follows the last one in order."""
        ...

    @property
    def wants(self) -> int | None:
        """From which batch on a replay is wanted; None: nothing is missing."""
        ...

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        ...

    believes_empty: bool
    """An empty answer from the first batch on means that none was published. False: there may be no buffer."""

    def step(self, now: float) -> None:
        """Go on with what is left: to be called once a turn while `busy`."""
        ...

    def live(self, sequence: int, payload: bytes, now: float) -> None:
        """A batch was published."""
        ...

    def replayed(self, batches: Sequence[tuple[int, bytes]], complete: bool, now: float) -> None:
        """Batches of a replay, in order; `complete`: that was the last there is. Those that it has it compares."""
        ...

    def unreplayable(self, now: float) -> None:
        """What is wanted cannot be had."""
        ...

    def restarted(self, now: float) -> None:
        """The engine is not the one that it was: its sequence and its cache begin anew."""
        ...


class Patience(msgspec.Struct, frozen=True):
    """How long answers are waited for, in seconds."""

    silence: float = 5.0
    """Longest wait for the next batch of an answer."""
    whole: float = 120.0
    """Longest answer."""
    slow: float = 3.0
    """After so long an answer must have kept its rate: others wait for its slot."""
    rate: float = 10.0
    """Batches a second, on average; 16 KiB of them count as one more. A sane engine sends thousands."""
    first_pause: float = 0.5
    """Before a question is asked again that was not answered; doubles each time."""
    longest_pause: float = 15.0
    tries: int = 4
    """Unanswered questions after which the missing batches are given up."""


class Replays(msgspec.Struct):
    """What came of the questions."""

    asked: int = 0
    batches: int = 0
    unanswered: int = 0
    """Questions that met silence, or an answer without end or too slow."""
    malformed: int = 0
    """Frames of an answer that were none."""
    holes: int = 0
    """Answers with batches missing inside, which the engine drops when its queue overflows; asked for again."""
    given_up: int = 0
    """Times that missing batches could not be had."""
    restarts: int = 0
    """Engines that turned out not to have a batch that they had before."""


class _End(enum.Enum):
    COMPLETE = enum.auto()
    STOPPED = enum.auto()
    SILENT = enum.auto()
    SLOW = enum.auto()


class Question:
    """One replay request and its answer, on a socket that lives as long."""

    def __init__(
        self,
        source: Source,
        start: int,
        context: zmq.Context[zmq.Socket[bytes]],
        intake: Intake,
        take: Callable[[int, bytes], bool],
        counts: Replays,
    ) -> None:
        """`take` gets each batch and says whether to go on."""
        assert source.replay is not None
        self._address = source.replay
        self._topic = None if source.topic is None else source.topic.encode()
        self._start = start
        self._intake = intake
        self._take = take
        self._counts = counts
        self._socket = context.socket(zmq.DEALER)
        self._frames = Frames(self._socket)
        self._heard = 0
        self._taken = 0.0
        """Batches, long ones as several."""
        self._ended: asyncio.Future[_End] = asyncio.get_running_loop().create_future()

    async def ask(self, patience: Patience) -> _End:
        """Send it and hand on what comes. The socket is closed on every way out."""
        socket = self._socket
        try:
            set_options(socket, self._address, QUEUED_BATCHES, MAX_MESSAGE_BYTES)
            socket.connect(self._address)
            socket.send_multipart((b"", self._start.to_bytes(SEQUENCE_BYTES, "big")), zmq.NOBLOCK)
            self._intake.add(socket, self)
            return await self._end(patience)
        except zmq.ZMQError as error:
            log.warning("replay from %s: %s", self._address, error)
            return _End.SILENT
        finally:
            self.close()

    def close(self) -> None:
        """Hear no more. Closing twice does nothing."""
        if not self._socket.closed:
            self._intake.remove(self._socket, self)
            self._socket.close(linger=0)

    def read_one(self) -> bool:
        """Take one message of the answer."""
        if self._ended.done() or self._socket.closed:
            return False
        frames = self._frames.read()
        if frames is None:
            return False
        self._heard += 1
        if len(frames) not in (3, 4) or frames[0] or len(frames[-2]) != SEQUENCE_BYTES:
            self._counts.malformed += bool(frames)
        elif frames[-2] == _END:
            self._ended.set_result(_End.COMPLETE)
        else:
            self._batch(frames)
        return True

    def _batch(self, frames: list[bytes]) -> None:
        """`[empty][topic][sequence][payload]`; older engines leave the topic out."""
        sequence = int.from_bytes(frames[-2], "big")
        if sequence < self._start or (len(frames) == 4 and self._topic is not None and frames[1] != self._topic):
            self._counts.malformed += 1
            return
        self._taken += 1.0 + len(frames[-1]) / _BATCH_BYTES
        if not self._take(sequence, frames[-1]) and not self._ended.done():
            self._ended.set_result(_End.STOPPED)

    async def _end(self, patience: Patience) -> _End:
        begun = last = now = time.monotonic()
        heard = 0
        while now - last < patience.silence and now - begun < patience.whole:
            await asyncio.wait((self._ended,), timeout=min(patience.silence, patience.slow))
            if self._ended.done():
                return self._ended.result()
            now = time.monotonic()
            if self._heard != heard:
                heard, last = self._heard, now
                if now - begun >= patience.slow and self._taken < patience.rate * (now - begun):
                    return _End.SLOW
        return _End.SILENT


class Replayer:
    """Gets one replica's missing batches for its sink, from `look` until there is nothing more to get.

    The last batch in order is asked for once more: where the engine has another one under that number, or none, it is
    another engine, which numbers alone do not show once it has published as much as the one before.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        context: zmq.Context[zmq.Socket[bytes]],
        intake: Intake,
        slots: asyncio.Semaphore,
        told: Callable[[], None],
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`slots`: who may ask at the same time, over all replicas. `told` is called after each part of an answer."""
        self.counts = Replays()
        self._source = source
        self._sink = sink
        self._context = context
        self._intake = intake
        self._slots = slots
        self._told = told
        self._patience = patience
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._question: Question | None = None
        self._check = False
        self._resume: int | None = None
        self._expected: int | None = None
        """Next batch of the answer under way; None before its first."""
        self._answers = False
        """It has once replayed something, so an empty answer tells."""

    @property
    def asking(self) -> bool:
        """Whether a question is under way."""
        return self._task is not None

    def look(self, *, check: bool = False) -> None:
        """Ask for what the sink wants; with `check` ask in any case: the last batches may have been missed."""
        if self._source.replay is None:
            if self._sink.wants is not None:
                self._give_up()
            return
        self._check = self._check or check
        if self._task is None and (self._check or self._sink.wants is not None):
            self._task = run_in_background(self._run(), f"replay from {self._source.replay}")

    def close(self) -> None:
        """Drop the question under way, at once; what still comes is not heard."""
        if self._question is not None:
            self._question.close()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        failures = 0
        try:
            while (start := self._start()) is not None:
                async with self._slots:
                    good = await self._ask(start)
                failures = 0 if good else failures + 1
                if failures >= self._patience.tries:
                    self._give_up()
                    return
                if failures:
                    pause = self._patience.first_pause * 2.0 ** (failures - 1)
                    await asyncio.sleep(min(pause, self._patience.longest_pause))
        finally:
            self._task = None

    def _start(self) -> int | None:
        """From which batch to ask now."""
        if self._resume is not None:
            return self._resume
        start = self._sink.wants
        if start is None and self._check:
            start = self._sink.next
        return None if start is None else max(start - 1, 0)

    async def _ask(self, start: int) -> bool:
        """One question; whether it brought us further."""
        self._check, self._resume, self._expected = False, None, None
        self.counts.asked += 1
        due, wanted, before = self._sink.next, self._sink.wants, self.counts.batches
        try:
            self._question = Question(self._source, start, self._context, self._intake, self._take, self.counts)
        except zmq.ZMQError as error:  # no socket is left
            log.warning("replay from %s: %s", self._source.replay, error)
            end = _End.SILENT
        else:
            end = await self._question.ask(self._patience)
        self._question = None
        if end is _End.COMPLETE:
            if self._expected is None and start < due and self._answers:
                self._restarted()
                return True
            self._sink.replayed((), True, self._clock())
            self._told()
            return wanted is None or self._sink.wants != wanted
        if end is _End.STOPPED:
            self.counts.holes += self._resume is not None
        else:
            self.counts.unanswered += 1
            self._resume = self._expected
            self._check = True
        return self.counts.batches > before and end is not _End.SLOW

    def _take(self, sequence: int, payload: bytes) -> bool:
        """A batch of the answer; False where it does not follow the one before, or the sink begins anew with it."""
        if self._expected is not None and sequence != self._expected:
            self._resume = self._expected
            return False
        self._answers = True
        self._expected = sequence + 1
        self.counts.batches += 1
        self._sink.replayed(((sequence, payload),), False, self._clock())
        self._told()
        return self._sink.next > sequence

    def _restarted(self) -> None:
        """Another engine: forget, and get all of the new one's batches."""
        self.counts.restarts += 1
        self._answers = False
        self._check = True
        self._sink.restarted(self._clock())

    def _give_up(self) -> None:
        self._check, self._resume = False, None
        if self._sink.wants is not None:
            self.counts.given_up += 1
            self._sink.unreplayable(self._clock())
