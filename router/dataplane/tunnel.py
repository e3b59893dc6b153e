"""An upgraded connection: bytes go both ways unread, until either side closes."""

from __future__ import annotations

import asyncio
from time import monotonic

from kvroute.router.dataplane.contract import Exchange, Failure, Outcome
from kvroute.router.dataplane.counters import Counters
from kvroute.router.dataplane.reply_head import ReplyHead
from kvroute.router.dataplane.upstream import Upstream


class Tunnel:
    """Joins a client and a replica. Each is read only as fast as the other takes the bytes."""

    __slots__ = ("_client", "_counters", "_exchange", "_over", "_upstream")

    def __init__(self, client: asyncio.Transport, upstream: Upstream, exchange: Exchange, counters: Counters) -> None:
        self._client = client
        self._upstream = upstream
        self._exchange = exchange
        self._counters = counters
        self._over = False
        upstream.asker = self

    def interim(self, raw: bytes) -> None:
        """Heads are behind us."""

    def replied(self, reply: ReplyHead, length: int, data: bytes, position: int) -> None:
        """Heads are behind us."""

    def received(self, data: bytes) -> None:
        if not self._over:
            self._client.write(data)

    def upload(self, data: bytes) -> None:
        """Bytes from the client."""
        if not self._over:
            self._upstream.transport.write(data)

    def ended(self) -> None:
        self._end(Outcome.COMPLETED)

    def broken(self, failure: Failure) -> None:
        self._end(Outcome.FAILED)

    def client_gone(self, clean: bool) -> None:
        """The client closed its side (clean) or was lost."""
        self._end(Outcome.COMPLETED if clean else Outcome.ABORTED)

    def shut(self) -> None:
        """The router is closing."""
        self._end(Outcome.FAILED)

    def client_full(self, full: bool) -> None:
        """Stop or resume reading the replica."""
        _hold(self._upstream.transport, full)

    def upstream_full(self, full: bool) -> None:
        """Stop or resume reading the client."""
        _hold(self._client, full)

    def _end(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        self._upstream.asker = None
        for transport in (self._client, self._upstream.transport):
            if outcome is Outcome.COMPLETED:
                transport.close()
            else:
                transport.abort()
        self._counters.relays -= 1
        self._exchange.settle(outcome, monotonic())


def _hold(transport: asyncio.Transport, full: bool) -> None:
    if transport.is_closing():
        return
    if full:
        transport.pause_reading()
    else:
        transport.resume_reading()
