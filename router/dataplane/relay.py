"""One exchange: it is tried at the endpoints it names, and the reply's bytes are passed on as they arrive."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Protocol

from kvroute.router.dataplane.contract import Endpoint, Exchange, Failure, Outcome
from kvroute.router.dataplane.counters import Counters
from kvroute.router.dataplane.framing import FramingError
from kvroute.router.dataplane.headers import CHUNKED
from kvroute.router.dataplane.passage import Passage
from kvroute.router.dataplane.pool import Pool
from kvroute.router.dataplane.reply_head import ReplyHead, client_head, framing_line
from kvroute.router.dataplane.request_head import RequestHead, upstream_head
from kvroute.router.dataplane.sides import Caller
from kvroute.router.dataplane.tail import HEAD_BYTES, TAIL_BYTES
from kvroute.router.dataplane.tunnel import Tunnel
from kvroute.router.dataplane.upstream import Upstream

_log = logging.getLogger(__name__)


class Plane(Protocol):
    """What the exchanges of a data plane share."""

    draining: bool
    counters: Counters

    def pool(self, endpoint: Endpoint) -> Pool: ...


class Relay:
    """Carries one exchange from its first attempt to its settling, which happens exactly once."""

    __slots__ = (
        "_caller",
        "_connecting",
        "_exchange",
        "_keep",
        "_over",
        "_passage",
        "_plane",
        "_pool",
        "_relayed",
        "_request",
        "_reusable",
        "_streaming",
        "_upstream",
    )

    def __init__(self, caller: Caller, request: RequestHead, exchange: Exchange, plane: Plane) -> None:
        self._caller = caller
        self._request = request
        self._exchange = exchange
        self._plane = plane
        self._over = False
        self._relayed = False
        self._keep = False
        self._reusable = False
        self._streaming = False
        self._connecting: asyncio.Task[Upstream] | None = None
        self._upstream: Upstream | None = None
        self._passage: Passage | None = None
        self._pool: Pool
        plane.counters.relays += 1

    # -- towards the replica

    def attempt(self, fresh: bool = False) -> None:
        """Try the endpoint that the exchange names now; `fresh`: not on a connection that was kept."""
        pool = self._pool = self._plane.pool(self._exchange.endpoint)
        upstream = None if fresh else pool.take()
        if upstream is not None:
            self._send(upstream)
            return
        task = asyncio.get_running_loop().create_task(pool.connect())
        self._connecting = task
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[Upstream]) -> None:
        self._connecting = None
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            if not isinstance(error, OSError):
                _log.error("connecting to %s failed", self._pool.endpoint.name, exc_info=error)
            if not self._over:
                self._failed(Failure.CONNECT)
        elif self._over:
            self._pool.give(task.result(), monotonic())
        elif task.result().transport.is_closing():
            self._failed(Failure.CONNECT)
        else:
            self._send(task.result())

    def _send(self, upstream: Upstream) -> None:
        self._upstream = upstream
        exchange = self._exchange
        body = exchange.body
        upstream.send(self, upstream_head(self._request, exchange), body)
        if body:
            exchange.body_sent()
        if self._caller.full:
            upstream.transport.pause_reading()

    def _failed(self, failure: Failure) -> None:
        self._passage = None
        reply = self._exchange.failed(failure, monotonic())
        if reply is None:
            self.attempt(fresh=failure is Failure.STALE)
            return
        self._settle(Outcome.FAILED, monotonic())
        self._caller.answer(reply)

    # -- what the replica's connection reports (upstream.Asker)

    def interim(self, raw: bytes) -> None:
        if not self._request.shape.old:
            self._caller.transport.write(raw)

    def replied(self, reply: ReplyHead, length: int, data: bytes, position: int) -> None:
        request = self._request
        exchange = self._exchange
        status = reply.status
        if status == 101:
            self._switch(reply, data, position)
            return
        bodiless = status == 204 or status == 304 or request.shape.method == b"HEAD"
        streaming = self._streaming = reply.events and status == 200 and not bodiless
        exchange.replied(status, streaming, monotonic())
        old = request.shape.old
        keep = self._keep = request.shape.keep_alive and not self._plane.draining
        self._reusable = reply.keep_alive and (bodiless or length >= CHUNKED)
        verbatim = reply.verbatim and keep and not old and status != 204 and not exchange.response_headers
        if verbatim and length == len(data) - position and not (streaming or bodiless):
            self._whole(reply, data, position)
            return
        passage = self._passage = Passage(
            exchange,
            0 if bodiless else length,
            old=old,
            streaming=streaming,
            ends=200 <= status < 300 and not bodiless and not reply.opaque,
            opaque=reply.opaque,
        )
        if old and not passage.counted:
            self._keep = False
        if verbatim and passage.raw:
            if not streaming:
                self._forward(passage, data, position, 0)
                return
            passage.head = data[:position]
        else:
            passage.head = self._client_head(reply, length, passage.wraps)
        self._forward(passage, data, position, position)

    def _whole(self, reply: ReplyHead, data: bytes, position: int) -> None:
        """The usual reply that is not streamed: all of it in one segment, nothing to change."""
        self._relayed = True
        self._caller.transport.write(data)
        tail = None
        if 200 <= reply.status < 300 and not reply.opaque:
            tail = data[max(position, len(data) - TAIL_BYTES) :]
            if tail:
                self._exchange.head(data[position : position + HEAD_BYTES])
        self._complete(tail)

    def _client_head(self, reply: ReplyHead, length: int, wraps: bool) -> bytes:
        old = self._request.shape.old
        if wraps:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif reply.status == 204 or (length == CHUNKED and old):
            framing = b""
        else:
            framing = framing_line(reply, length)
        if not self._keep:
            framing += b"Connection: close\r\n"
        elif old:
            framing += b"Connection: keep-alive\r\n"
        return client_head(reply, framing, self._exchange.response_headers)

    def received(self, data: bytes) -> None:
        if self._passage is not None:
            self._forward(self._passage, data, 0, 0)

    def _forward(self, passage: Passage, data: bytes, position: int, start: int) -> None:
        """Pass a segment on: body bytes begin at `position`, bytes to relay at `start`."""
        try:
            data = passage.carry(data, position, start)
        except FramingError:
            self._drop_upstream()
            self.broken(Failure.PROTOCOL)
            return
        if data:
            self._relayed = True
            self._caller.transport.write(data)
        if passage.ended:
            self._reusable = self._reusable and passage.clean
            self._complete(passage.tail())

    def ended(self) -> None:
        passage = self._passage
        if self._upstream is None or passage is None or not passage.open_ended:
            return
        data = passage.close()
        if data:
            self._caller.transport.write(data)
        self._complete(passage.tail())

    def broken(self, failure: Failure) -> None:
        self._upstream = None
        if not self._relayed:
            self._failed(failure)
            return
        self._plane.counters.cut += 1
        self._settle(Outcome.FAILED, monotonic())
        counted = self._passage is None or self._passage.counted
        self._caller.cut(reset=self._request.shape.old and not counted)

    def upstream_full(self, full: bool) -> None:
        """The request's body waits in memory as it is: nothing to hold back."""

    def _complete(self, tail: bytes | None) -> None:
        now = monotonic()
        upstream = self._upstream
        self._upstream = None
        if upstream is not None:
            if self._reusable:
                if self._caller.full:
                    upstream.transport.resume_reading()
                self._pool.give(upstream, now)
            else:
                upstream.abort()
        self._settle(Outcome.COMPLETED, now, tail)
        self._caller.finished(self._keep, now)

    def _switch(self, reply: ReplyHead, data: bytes, position: int) -> None:
        upstream = self._upstream
        if not self._request.shape.websocket or upstream is None:
            self._drop_upstream()
            self.broken(Failure.PROTOCOL)
            return
        self._exchange.replied(reply.status, False, monotonic())
        self._upstream = None
        self._over = True
        tunnel = Tunnel(self._caller.transport, upstream, self._exchange, self._plane.counters)
        self._caller.transport.write(data)
        self._caller.tunnelled(tunnel)

    # -- what the client's connection reports

    def upload(self, data: bytes) -> None:
        """Only tunnels take bytes from the client."""
        raise AssertionError("a relay has its whole request")

    def client_full(self, full: bool) -> None:
        """Stop or resume reading the reply."""
        upstream = self._upstream
        if upstream is None:
            return
        if full:
            upstream.transport.pause_reading()
        else:
            upstream.transport.resume_reading()

    def client_gone(self, clean: bool) -> None:
        """The client has left: the replica hears of it at once."""
        self._abandon(Outcome.ABORTED)

    def shut(self) -> None:
        """The router is closing."""
        self._abandon(Outcome.FAILED)

    def _abandon(self, outcome: Outcome) -> None:
        if self._over:
            return
        if self._connecting is not None:
            self._connecting.cancel()
        self._drop_upstream()
        self._settle(outcome, monotonic())

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None

    def _settle(self, outcome: Outcome, now: float, tail: bytes | None = None) -> None:
        self._over = True
        self._plane.counters.relays -= 1
        exchange = self._exchange
        if self._streaming and self._passage is not None:
            exchange.streamed(self._passage.pieces)
        if tail is not None:
            exchange.tail(tail, self._streaming)
        exchange.settle(outcome, now)
