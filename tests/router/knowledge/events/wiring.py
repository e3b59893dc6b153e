"""A publisher of a test's own, and a plain stream behind a subscription."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import zmq

from kvroute.router.knowledge.events.sources import Found, Source

END = b"\xff" * 8


class Lines:
    """A stream that only puts batches in order: gaps are wanted from a replay, later batches wait."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        """In order, as far as known."""
        self.next = 0
        self.lost = 0
        """Times that batches were lost for good."""
        self.restarts = 0
        self.left = 0
        """Steps that are to be made."""
        self._ahead: dict[int, bytes] = {}
        self.believes_empty = True
        self._asking = False

    @property
    def wants(self) -> int | None:
        """What is missing before the batches that came early."""
        return self.next if self._asking or self._ahead else None

    def live(self, sequence: int, payload: bytes, now: float) -> None:
        """A batch was published."""
        if sequence > self.next:
            self._ahead[sequence] = payload
        elif sequence == self.next:
            self._take(payload)
            self._catch_up()
        else:
            self.restarted(now)
            self.live(sequence, payload, now)

    def replayed(self, batches: Sequence[tuple[int, bytes]], complete: bool, now: float) -> None:
        """Batches of a replay."""
        for sequence, payload in batches:
            if sequence > self.next:
                self._jump(sequence)
            have = len(self.payloads) - (self.next - sequence)
            if 0 <= have < len(self.payloads) and self.payloads[have] != payload:
                self.restarted(now)
                return
            if sequence == self.next:
                self._take(payload)
        self._catch_up()
        if complete:
            self._asking = False
            if self._ahead:
                self._jump(min(self._ahead))
                self._catch_up()

    def unreplayable(self, now: float) -> None:
        """What is wanted cannot be had."""
        self._asking = False
        self._jump(min(self._ahead, default=self.next))
        self._catch_up()

    def restarted(self, now: float) -> None:
        """Another engine."""
        self.restarts += 1
        self.payloads.clear()
        self._ahead.clear()
        self.next, self._asking = 0, True

    @property
    def busy(self) -> bool:
        """Whether something was left for later."""
        return bool(self.left)

    def step(self, now: float) -> None:
        """Do one thing of what was left."""
        self.left -= 1

    def _take(self, payload: bytes) -> None:
        self.payloads.append(payload)
        self.next += 1

    def _jump(self, sequence: int) -> None:
        self.lost += 1
        self.payloads.clear()
        self.next = sequence

    def _catch_up(self) -> None:
        while (payload := self._ahead.pop(self.next, None)) is not None:
            self._take(payload)
        self._ahead = {sequence: payload for sequence, payload in self._ahead.items() if sequence > self.next}


class Publisher:
    """Both sockets of an engine, in the test's hands: every frame can be wrong."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], *, events: int = 0, replay: int = 0, queued: int = 100_000
    ) -> None:
        self.sent: list[bytes] = []
        self._events = context.socket(zmq.PUB)
        self._events.set_hwm(queued)
        self.events_port = _bind(self._events, events)
        self._replay = context.socket(zmq.ROUTER)
        self.replay_port = _bind(self._replay, replay)

    def source(self, topic: str | None = "kv", *, replay: bool = True) -> Source:
        """Where it is."""
        answers = f"tcp://127.0.0.1:{self.replay_port}" if replay else None
        return Source(0, f"tcp://127.0.0.1:{self.events_port}", answers, topic, Found.CONFIG)

    def publish(self, payload: bytes, *, lost: bool = False) -> None:
        """The next batch; `lost`: kept for replays only."""
        self.sent.append(payload)
        if not lost:
            self.send(b"kv", (len(self.sent) - 1).to_bytes(8, "big"), payload)

    def send(self, *frames: bytes) -> None:
        """Any frames."""
        self._events.send_multipart(frames)

    async def asked(self) -> tuple[bytes, int]:
        """The next replay request: who asks, and from where."""
        while not self._replay.poll(0):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        client, empty, start = self._replay.recv_multipart()
        assert empty == b""
        return client, int.from_bytes(start, "big")

    def answer(self, client: bytes, *frames: bytes) -> None:
        """One message of an answer."""
        self._replay.send_multipart((client, b"", *frames))

    async def answer_all(self, topic: bytes = b"kv") -> int:
        """Answer one request as an engine does; returns where it began."""
        client, start = await self.asked()
        for sequence in range(start, len(self.sent)):
            self.answer(client, topic, sequence.to_bytes(8, "big"), self.sent[sequence])
        self.answer(client, b"", END, b"")
        return start

    async def answer_always(self) -> None:
        """Answer until cancelled."""
        while True:
            await self.answer_all()

    def close(self) -> None:
        """Unbind."""
        self._events.close(linger=0)
        self._replay.close(linger=0)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def _bind(socket: zmq.Socket[bytes], port: int) -> int:
    if port:
        socket.bind(f"tcp://127.0.0.1:{port}")
        return port
    return socket.bind_to_random_port("tcp://127.0.0.1")
