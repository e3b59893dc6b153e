"""Reads one message of an event socket, whatever its sender made of it."""

from __future__ import annotations

import zmq

SEQUENCE_BYTES = 8
_MOST_FRAMES = 5
"""One more than any good message has."""
_SKIPPED_AT_ONCE = 256
"""Frames of a bad message that are thrown away in one go."""
_NOBLOCK = int(zmq.NOBLOCK)
"""As a plain number, and frames that know whether more follow: half the cost of `recv_multipart`."""
_NOTHING = frozenset((zmq.EAGAIN, zmq.ETERM, zmq.ENOTSOCK))
"""Nothing has come, or nothing will any more: the context ended first."""


class Frames:
    """The messages of one socket as lists of frames. A message of too many frames is cut, and its rest thrown away
    bit by bit, so that a sender of endless messages holds nobody up."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._skipping = False

    def read(self) -> list[bytes] | None:
        """The next message, or its first frames; empty where more of a bad one was thrown away; None when there is
        nothing (for now)."""
        socket = self._socket
        try:
            if self._skipping:
                self._skip()
                return []
            frame = socket.recv(_NOBLOCK, False)
            frames = [frame.bytes]
            while frame.more:
                if len(frames) == _MOST_FRAMES:
                    self._skipping = True
                    break
                frame = socket.recv(_NOBLOCK, False)
                frames.append(frame.bytes)
        except zmq.ZMQError as error:
            if error.errno in _NOTHING:
                return None
            raise
        return frames

    def _skip(self) -> None:
        for _ in range(_SKIPPED_AT_ONCE):
            if not self._socket.recv(_NOBLOCK, False).more:
                self._skipping = False
                return
