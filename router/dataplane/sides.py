"""What the parts of the data plane see of each other: each only what it needs."""

from __future__ import annotations

import asyncio
from typing import Protocol

from kvroute.router.dataplane.contract import Failure, Reply
from kvroute.router.dataplane.reply_head import ReplyHead


class Asker(Protocol):
    """Who waits for a replica's bytes: a relay, or a tunnel."""

    def interim(self, raw: bytes) -> None:
        """A 1xx head that is neither 100 nor 101."""
        ...

    def replied(self, reply: ReplyHead, length: int, data: bytes, position: int) -> None:
        """The final head is in: `data` begins with it, the body begins at `position`, its length is `length`."""
        ...

    def received(self, data: bytes) -> None:
        """More bytes behind the head."""
        ...

    def ended(self) -> None:
        """The replica has closed its side."""
        ...

    def broken(self, failure: Failure) -> None:
        """The connection was lost, or what it carried is not HTTP; it has been given up."""
        ...

    def upstream_full(self, full: bool) -> None:
        """The replica reads more slowly than we write, or no longer."""
        ...


class Carrier(Protocol):
    """What a client's connection tells whoever answers it: a relay, or a tunnel."""

    def upload(self, data: bytes) -> None:
        """Bytes behind an upgrade."""
        ...

    def client_full(self, full: bool) -> None:
        """The client reads more slowly than we write, or no longer."""
        ...

    def client_gone(self, clean: bool) -> None:
        """The client closed its side (clean) or was lost."""
        ...

    def shut(self) -> None:
        """The router is closing."""
        ...


class Caller(Protocol):
    """The client's connection, as a relay sees it."""

    transport: asyncio.Transport
    full: bool
    """It reads more slowly than we write."""

    def answer(self, reply: Reply) -> None:
        """Send an answer of our own."""
        ...

    def finished(self, keep: bool, now: float) -> None:
        """The reply is written; keep the connection, or close it once its bytes are out."""
        ...

    def cut(self, reset: bool) -> None:
        """Close without completing the reply; `reset`: so that not even the close looks like an end."""
        ...

    def tunnelled(self, tunnel: Carrier) -> None:
        """From now on its bytes go into the tunnel."""
        ...
