"""One subscription socket: the live messages of one replica's events, and whether it is connected."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from kvroute.router.knowledge.events.frames import SEQUENCE_BYTES, Frames
from kvroute.router.knowledge.events.intake import Intake

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 << 20
"""A larger frame makes ZMQ drop the connection: about a million token ids."""
QUEUED_MESSAGES = 256
"""Messages that wait here at most. Beyond, TCP holds the publisher back, whose own queue is far larger (100,000)."""
RENEW_SECONDS = 5.0
"""After so long without a connection the socket is made anew: ZMQ does not try again after a protocol error."""
_LONGEST_RENEWAL = 60.0
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN))
"""Not the address is wrong: this process, or the machine, has no socket left."""
_MAX_SOCKETS = 16_384


class Heard(Protocol):
    """Who is told what a subscription hears. Called on the event loop; must not block."""

    def message(self, sequence: int, payload: bytes) -> None:
        """A batch, as it was published."""
        ...

    def connection(self, connected: bool) -> None:
        """The connection was made, or made again (what was published meanwhile is lost), or it broke."""
        ...


class Hearsay(msgspec.Struct):
    """What a subscription was sent, in messages."""

    messages: int = 0
    malformed: int = 0
    """Not three frames with a sequence number of eight bytes."""
    foreign: int = 0
    """Of another topic than the one told."""
    connects: int = 0
    disconnects: int = 0


def open_context() -> zmq.Context[zmq.Socket[bytes]]:
    """The context of this process, for any number of subscriptions. `destroy(linger=0)` ends it without waiting."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
    context.setsockopt(zmq.LINGER, 0)
    return context


class Subscriber:
    """Listens to one address from `open` until `close`; ZMQ connects, and connects again, by itself."""

    def __init__(
        self,
        address: str,
        topic: str | None,
        context: zmq.Context[zmq.Socket[bytes]],
        intake: Intake,
        heard: Heard,
        *,
        queued: int = QUEUED_MESSAGES,
        max_bytes: int = MAX_MESSAGE_BYTES,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        """`topic` None takes messages of every topic; otherwise only those that carry exactly this one."""
        self.connected = False
        self.counts = Hearsay()
        self._address = address
        self._topic = None if topic is None else topic.encode()
        self._context = context
        self._intake = intake
        self._heard = heard
        self._queued = queued
        self._max_bytes = max_bytes
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: _Monitor | None = None
        self._frames: Frames | None = None
        self._renew_seconds = renew_seconds
        self._renewal: asyncio.TimerHandle | None = None
        self._said = False
        """It was logged that no socket can be had."""

    def open(self) -> None:
        """Start listening. Where there is no socket left it is tried again.

        Raises:
            zmq.ZMQError: the address is none.
        """
        try:
            self._connect()
        except zmq.ZMQError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._say(error)
        self._renew_in(self._renew_seconds)

    def close(self) -> None:
        """Stop at once. Nothing is told any more; closing twice does nothing."""
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        self.connected = False
        self._disconnect()

    def _connect(self) -> None:
        socket = self._socket = self._context.socket(zmq.SUB)
        try:
            set_options(socket, self._address, self._queued, self._max_bytes)
            socket.setsockopt(zmq.SUBSCRIBE, self._topic or b"")
            self._monitor = _Monitor(socket, self._intake, self._connection)
            socket.connect(self._address)
        except zmq.ZMQError:
            self._disconnect()
            raise
        self._frames = Frames(socket)
        self._intake.add(socket, self)

    def _disconnect(self) -> None:
        socket, monitor = self._socket, self._monitor
        self._socket = self._frames = self._monitor = None
        if socket is not None:
            self._intake.remove(socket, self)
            if monitor is not None:
                monitor.close()
            socket.close(linger=0)

    def _renew_in(self, seconds: float) -> None:
        self._renewal = asyncio.get_running_loop().call_later(seconds, self._renew, seconds)

    def _renew(self, waited: float) -> None:
        """A fresh socket, should there be no connection."""
        if self.connected:
            self._renewal = None
            return
        self._disconnect()
        try:
            self._connect()
        except zmq.ZMQError as error:
            self._say(error)
        self._renew_in(min(2.0 * waited, _LONGEST_RENEWAL))

    def _say(self, error: zmq.ZMQError) -> None:
        if not self._said:
            self._said = True
            log.warning("subscription to %s: %s; tried again and again", self._address, error)

    def read_one(self) -> bool:
        """Take one message; False where there is none."""
        frames = self._frames.read() if self._frames is not None else None
        if frames is None:
            return False
        if len(frames) != 3 or len(frames[1]) != SEQUENCE_BYTES:
            self.counts.malformed += bool(frames)
        elif self._topic is not None and frames[0] != self._topic:
            self.counts.foreign += 1
        else:
            self.counts.messages += 1
            self._heard.message(int.from_bytes(frames[1], "big"), frames[2])
        return True

    def _connection(self, connected: bool) -> None:
        if connected == self.connected:
            return
        self.connected = connected
        if connected:
            self._said = False
            self.counts.connects += 1
        else:
            self.counts.disconnects += 1
            if self._renewal is None:
                self._renew_in(self._renew_seconds)
        self._heard.connection(connected)


def set_options(socket: zmq.Socket[bytes], address: str, queued: int, max_bytes: int) -> None:
    """Bounds on memory, quick reconnection, and heartbeats by which a peer that vanished is noticed in 10 s."""
    socket.setsockopt(zmq.RCVHWM, queued)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, int(":" in address.removeprefix("tcp://").rpartition(":")[0]))
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 3000)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 3000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)


class _Monitor:
    """Follows a socket's connection by ZMQ's own notes, which come over a socket as well."""

    _EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED

    def __init__(self, socket: zmq.Socket[bytes], intake: Intake, told: Callable[[bool], None]) -> None:
        self._intake = intake
        self._told = told
        self._watched = socket
        self._notes = socket.get_monitor_socket(self._EVENTS)
        self._notes.setsockopt(zmq.LINGER, 0)
        self._frames = Frames(self._notes)
        intake.add(self._notes, self)

    def close(self) -> None:
        """Stop; before the watched socket is closed."""
        self._intake.remove(self._notes, self)
        self._watched.disable_monitor()
        self._notes.close(linger=0)

    def read_one(self) -> bool:
        """Take one note."""
        note = self._frames.read()
        if note is None:
            return False
        event = parse_monitor_message(note)["event"]
        self._told(event == zmq.EVENT_HANDSHAKE_SUCCEEDED)
        return True
