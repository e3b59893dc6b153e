"""What the supervisor and a worker tell each other: one JSON object a line over the socket pair between them."""

from __future__ import annotations

import msgspec

from kvroute.router.config import Config, Listen

LONGEST_LINE = 64 * 1024 * 1024
"""Most bytes of one line: a configuration may list many backends."""


class Task(msgspec.Struct, frozen=True):
    """The first line to a worker: who it is and what to serve."""

    index: int
    config: Config
    listen: Listen
    """The clients' port that all workers share, and a free control port on loopback."""
    gathered: str
    """Base URL of the supervisor's control plane, whose /metrics has the pages of all workers."""
    others_serve: bool = False
    """Clients are better served by others until this worker knows its replicas."""
    drained: tuple[str, ...] = ()
    """Replicas that an operator has drained."""


class Up(msgspec.Struct, frozen=True, tag="up"):
    """The worker listens."""

    control_port: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The worker cannot start with this configuration, and ends."""

    message: str


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """A replica keeps a response: a follow-up may reach any worker. The supervisor passes it on to the others."""

    response: str
    replica: str


class AdaptersChanged(msgspec.Struct, frozen=True, tag="adapters_changed"):
    """A client had engines load or unload adapters through one worker: the others look anew at what they serve."""


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """An operator drained or undrained a replica while the worker was starting."""

    name: str
    drained: bool


Said = Up | Refused | Stored | AdaptersChanged | Drained
"""What follows the task, in either direction."""


def line(message: Task | Said) -> bytes:
    """One message as it goes over the socket."""
    return msgspec.json.encode(message) + b"\n"


_SAID: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)
_TASK = msgspec.json.Decoder(Task)


def task(text: bytes) -> Task:
    """The task in a line. Raises msgspec.DecodeError when it is none."""
    return _TASK.decode(text)


def said(text: bytes) -> Said:
    """The message in a line. Raises msgspec.DecodeError when it is none."""
    return _SAID.decode(text)
