"""One exchange: it is tried at the endpoints it names, and the reply's bytes are passed on as they arrive."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Protocol

from kvroute.router.dataplane.contract import Endpoint, Exchange, Failure, Outcome, Reply
from kvroute.router.dataplane.counters import Counters
from kvroute.router.dataplane.framing import Chunked, Counted, Framing, FramingError, Unbounded
from kvroute.router.dataplane.headers import CHUNKED
from kvroute.router.dataplane.pool import Pool
from kvroute.router.dataplane.reply_head import ReplyHead, client_head, framing_line
from kvroute.router.dataplane.request_head import RequestHead, upstream_head
from kvroute.router.dataplane.tail import TAIL_BYTES, FirstOutput, Tail
from kvroute.router.dataplane.tunnel import Tunnel
from kvroute.router.dataplane.upstream import Upstream

_log = logging.getLogger(__name__)

_RAW, _UNWRAP, _WRAP = range(3)
"""How body bytes change on their way: not at all, chunks taken off (HTTP/1.0), chunks put on (it ends at EOF)."""

_NEAR_BYTES = 1024
"""Where in a segment the first output is looked for first."""


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

    def tunnelled(self, tunnel: Tunnel) -> None:
        """From now on its bytes go into the tunnel."""
        ...


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
        "_first",
        "_framing",
        "_head",
        "_holding",
        "_inspects",
        "_keep",
        "_over",
        "_plane",
        "_pool",
        "_recode",
        "_relayed",
        "_request",
        "_reusable",
        "_streaming",
        "_tail",
        "_upstream",
        "_waiting",
    )

    def __init__(self, caller: Caller, request: RequestHead, exchange: Exchange, plane: Plane) -> None:
        self._caller = caller
        self._request = request
        self._exchange = exchange
        self._plane = plane
        self._over = False
        self._relayed = False
        self._connecting: asyncio.Task[Upstream] | None = None
        self._upstream: Upstream | None = None
        self._pool: Pool
        self._framing: Framing
        self._keep = False
        self._reusable = False
        self._streaming = False
        self._recode = _RAW
        plane.counters.relays += 1

    # -- towards the replica

    def attempt(self, fresh: bool = False) -> None:
        """Try the endpoint that the exchange names now; `fresh`: not on a connection that was kept."""
        self._head = b""
        self._holding = False
        self._inspects = False
        self._waiting = False
        self._first: FirstOutput | None = None
        self._tail: Tail | None = None
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
        self._frame(length, bodiless, old)
        if 200 <= status < 300 and not bodiless and not reply.opaque:
            self._tail = Tail()
        verbatim = verbatim and self._recode == _RAW
        if streaming:
            self._holding = self._inspects = self._waiting = True
            self._first = FirstOutput() if not reply.opaque else None
        elif verbatim:
            self._forward(data, position, 0)
            return
        self._head = data[:position] if verbatim else self._client_head(reply, length)
        self._forward(data, position, position)

    def _whole(self, reply: ReplyHead, data: bytes, position: int) -> None:
        """The usual reply that is not streamed: all of it in one segment, nothing to change."""
        self._relayed = True
        self._caller.transport.write(data)
        if 200 <= reply.status < 300 and not reply.opaque:
            self._exchange.tail(data[max(position, len(data) - TAIL_BYTES) :], False)
        self._complete()

    def _frame(self, length: int, bodiless: bool, old: bool) -> None:
        """Choose how the body is followed, and whether the client's connection can outlive it."""
        self._recode = _RAW
        if bodiless:
            self._framing = Counted(0)
        elif length >= 0:
            self._framing = Counted(length)
        else:
            self._framing = Chunked() if length == CHUNKED else Unbounded()
            if old:
                self._keep = False
            if old == (length == CHUNKED):
                self._recode = _UNWRAP if old else _WRAP
                self._inspects = True

    def _client_head(self, reply: ReplyHead, length: int) -> bytes:
        old = self._request.shape.old
        if self._recode == _WRAP:
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
        self._forward(data, 0, 0)

    def _forward(self, data: bytes, position: int, start: int) -> None:
        """Pass a segment on: body bytes begin at `position`, bytes to relay at `start`."""
        framing = self._framing
        tail = self._tail
        mark = framing.mark() if tail is not None and type(framing) is Chunked else None
        out: list[bytes] | None = None
        try:
            if not self._inspects:
                end = framing.feed(data, position, None)
            elif self._recode == _RAW:
                end = self._watch(data, position)
            else:
                out = []
                end = framing.feed(data, position, out)
        except FramingError:
            self._drop_upstream()
            self.broken(Failure.PROTOCOL)
            return
        if -1 < end < len(data):
            data = data[:end]
            self._reusable = False
        if tail is not None:
            tail.keep(data, position, mark)
        if start:
            data = data[start:]
        if out is not None:
            data = self._recoded(b"".join(out))
        if self._head:
            data = self._head + data
            self._head = b""
            if self._holding and end < 0:
                self._head = data
                return
        if data:
            self._relayed = True
            self._caller.transport.write(data)
        if end >= 0:
            self._complete()

    def _watch(self, data: bytes, position: int) -> int:
        """Follow the framing, and look at the payload only until the first output: that is near, most of the time."""
        framing = self._framing
        near = position + _NEAR_BYTES
        end = -1
        for piece in (data[:near], data) if len(data) > near else (data,):
            out: list[bytes] | None = [] if self._inspects else None
            end = framing.feed(piece, position, out)
            position = len(piece)
            if out is not None:
                self._see(b"".join(out))
            if end >= 0:
                break
        return end

    def _see(self, payload: bytes) -> None:
        """Note the first body byte, which lets a held head go, and the first output of a stream."""
        if not payload:
            return
        self._holding = False
        if self._waiting and (self._first is None or self._first.feed(payload)):
            self._exchange.first_output(monotonic())
            self._waiting = False
            self._first = None
            self._inspects = self._recode != _RAW

    def _recoded(self, payload: bytes) -> bytes:
        """The payload in the framing that the client needs."""
        self._see(payload)
        if self._recode == _UNWRAP or not payload:
            return payload
        return b"%x\r\n%b\r\n" % (len(payload), payload)

    def ended(self) -> None:
        upstream = self._upstream
        if upstream is None or not self._answering() or type(self._framing) is not Unbounded:
            return
        last = b"0\r\n\r\n" if self._recode == _WRAP else b""
        data = self._head + last
        if data:
            self._caller.transport.write(data)
        self._complete()

    def _answering(self) -> bool:
        return self._relayed or bool(self._head)

    def broken(self, failure: Failure) -> None:
        self._upstream = None
        if not self._relayed:
            self._failed(failure)
            return
        self._plane.counters.cut += 1
        self._settle(Outcome.FAILED, monotonic())
        self._caller.cut(reset=self._request.shape.old and type(self._framing) is not Counted)

    def upstream_full(self, full: bool) -> None:
        """The request's body waits in memory as it is: nothing to hold back."""

    def _complete(self) -> None:
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
        tail = self._tail
        if tail is not None:
            self._exchange.tail(tail.read(), self._streaming)
        self._settle(Outcome.COMPLETED, now)
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

    def _settle(self, outcome: Outcome, now: float) -> None:
        self._over = True
        self._plane.counters.relays -= 1
        self._exchange.settle(outcome, now)
