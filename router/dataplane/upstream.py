"""One connection to a replica: finds the reply's head in the bytes, hands everything on to whoever asked."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from kvroute.router.dataplane.contract import Failure
from kvroute.router.dataplane.headers import Refused, same_again
from kvroute.router.dataplane.limits import Limits
from kvroute.router.dataplane.reply_head import ReplyHead, read_reply
from kvroute.router.dataplane.sides import Asker


class Owner(Protocol):
    """Who keeps a connection while nobody uses it."""

    limits: Limits

    def opened(self, upstream: Upstream) -> None: ...

    def lost(self, upstream: Upstream) -> None: ...


class Upstream(asyncio.Protocol):
    """The protocol that faces a replica. Idle when `asker` is None."""

    __slots__ = ("_head", "_known", "_owner", "_seen", "address", "asker", "idle_since", "transport", "used")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._head = b""
        self._seen = False
        self._known: ReplyHead | None = None
        self.asker: Asker | None = None
        self.transport: asyncio.Transport
        self.address = ""
        self.idle_since = 0.0
        self.used = False
        """It has carried an exchange before this one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def send(self, asker: Asker, head: bytes, body: bytes) -> None:
        """Begin an exchange. Bytes wait in the transport by reference, so that a large body is not copied."""
        self.asker = asker
        self._seen = False
        self._head = b""
        if len(body) > 32768:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head + body)

    def data_received(self, data: bytes) -> None:
        asker = self.asker
        if asker is None:
            self.transport.abort()
        elif self._seen:
            asker.received(data)
        elif self._head or not self._recognised(asker, data):
            self._read_head(asker, data)

    def _recognised(self, asker: Asker, data: bytes) -> bool:
        """Whether `data` begins with the head of the last reply again, but for its length; if so it is handed on."""
        reply = self._known
        if reply is None:
            return False
        again = same_again(reply.front, reply.back, data)
        if again is None:
            return False
        digits, end = again
        if reply.length < 0:
            if digits:
                return False
            length = reply.length
        elif digits.isdigit():
            length = int(digits)
        else:
            return False
        self._seen = True
        asker.replied(reply, length, data, end)
        return True

    def _read_head(self, asker: Asker, data: bytes) -> None:
        if self._head:
            data = self._head + data
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if (end if end > 3 else len(data)) > self._owner.limits.reply_head_bytes:
                return self._give_up(Failure.PROTOCOL)
            if end == 3:
                self._head = data
                if data[:5] != b"HTTP/"[: len(data)]:
                    self._give_up(Failure.PROTOCOL)
                return None
            try:
                reply = read_reply(data[:end])
            except Refused:
                return self._give_up(Failure.PROTOCOL)
            if reply.status >= 200 or reply.status == 101:
                break
            if reply.status != 100:
                asker.interim(data[:end])
            data = data[end:]
            self._head = b""
        self._seen = True
        self._head = b""
        self._known = reply if reply.back else None
        return asker.replied(reply, reply.length, data, end)

    def eof_received(self) -> None:
        if self.asker is not None:
            self.asker.ended()
            self._give_up(self._loss())

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self)
        asker, self.asker = self.asker, None
        if asker is not None:
            asker.broken(self._loss())

    def _loss(self) -> Failure:
        return Failure.STALE if self.used and not self._seen and not self._head else Failure.CUT

    def _give_up(self, failure: Failure) -> None:
        asker, self.asker = self.asker, None
        self.transport.abort()
        if asker is not None:
            asker.broken(failure)

    def abort(self) -> None:
        """Close at once, and tell nobody: who asked has gone or has had enough."""
        self.asker = None
        self.transport.abort()

    def pause_writing(self) -> None:
        if self.asker is not None:
            self.asker.upstream_full(True)

    def resume_writing(self) -> None:
        if self.asker is not None:
            self.asker.upstream_full(False)
