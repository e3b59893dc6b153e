"""One client connection: reads requests one after another, and answers each before the next is looked at."""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
import struct
from collections.abc import Awaitable
from math import inf
from time import monotonic
from typing import Protocol, cast

from kvroute.router.dataplane.contract import Exchange, Handler, Outcome, Reply
from kvroute.router.dataplane.headers import Refused
from kvroute.router.dataplane.limits import Limits
from kvroute.router.dataplane.reader import Reader
from kvroute.router.dataplane.relay import Plane, Relay
from kvroute.router.dataplane.replies import overloaded, refusal, wire
from kvroute.router.dataplane.request_head import RequestHead
from kvroute.router.dataplane.sides import Carrier

_log = logging.getLogger(__name__)
_RESET = struct.pack("ii", 1, 0)


class State(enum.Enum):
    """What a client connection is waiting for."""

    HEAD = enum.auto()
    """A request head; idle between requests."""
    BODY = enum.auto()
    """The rest of a request body."""
    BUSY = enum.auto()
    """The answer. What the client sends meanwhile is kept, up to `pipelined_bytes`."""
    TUNNEL = enum.auto()
    """Either side's close."""
    CLOSING = enum.auto()
    """The client to read our last bytes; what it sends is thrown away."""
    CLOSED = enum.auto()


_HEAD, _BODY, _BUSY, _TUNNEL, _CLOSING, _CLOSED = State
"""The states by names that cost no attribute look-up."""


class Server(Plane, Protocol):
    """What client connections share."""

    handler: Handler
    limits: Limits
    scheme: str
    clients: set[Client]

    def next_id(self) -> str:
        """A request id that no router has used."""
        ...

    def joined(self, client: Client) -> None:
        """A connection was accepted."""
        ...

    def left(self, client: Client) -> None:
        """A connection is gone."""
        ...


class Client(asyncio.Protocol):
    """The protocol that faces a client."""

    __slots__ = (
        "_advancing",
        "_carrier",
        "_held",
        "_partial",
        "_patience",
        "_reader",
        "_request",
        "_server",
        "_task",
        "deadline",
        "full",
        "state",
        "transport",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self.state: State = _HEAD
        self.deadline = inf
        """When `expired` is to be called (monotonic seconds)."""
        self.full = False
        self.transport: asyncio.Transport
        self._partial = False
        self._patience = 0.0
        """How long last bytes may take that a slow reader still wants."""
        self._advancing = False
        self._reader: Reader
        self._request: RequestHead | None = None
        self._held = 0
        self._task: asyncio.Future[Reply | Exchange] | None = None
        self._carrier: Carrier | None = None

    @property
    def idle(self) -> bool:
        """Between two requests, with nothing of the next one received."""
        return self.state is _HEAD and not self._reader.buffer

    # -- what the transport reports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        server = self._server
        limits = server.limits
        self.transport.set_write_buffer_limits(limits.high_water_bytes, limits.low_water_bytes)
        peer = transport.get_extra_info("peername")
        self._reader = Reader(limits, peer[0] if peer else "unknown", server.scheme)
        server.joined(self)
        self.deadline = monotonic() + limits.keep_alive_seconds
        if len(server.clients) > limits.connections:
            self.refuse(overloaded("too many connections"))

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state is _HEAD:
            reader = self._reader
            reader.buffer = reader.buffer + data if reader.buffer else data
            self._advance()
        elif state is _BODY:
            self._read_body(data)
        elif state is _TUNNEL:
            if self._carrier is not None:
                self._carrier.upload(data)
        elif state is _BUSY:
            self._reader.buffer += data
            if len(self._reader.buffer) > self._server.limits.pipelined_bytes:
                self._drop()

    def eof_received(self) -> None:
        """A client that closes its side has left: a reply could not be told apart from one nobody reads."""
        if self.state is _TUNNEL and self._carrier is not None:
            self._carrier.client_gone(clean=True)
        elif self.state is not _CLOSING:
            self._drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self._server.left(self)

    def pause_writing(self) -> None:
        self.full = True
        if self.state is not _CLOSING:
            self.deadline = monotonic() + self._server.limits.stall_seconds
        if self._carrier is not None:
            self._carrier.client_full(True)

    def resume_writing(self) -> None:
        self.full = False
        if self.state is _HEAD:
            self.deadline = monotonic() + self._server.limits.keep_alive_seconds
        elif self.state in (_BUSY, _TUNNEL):
            self.deadline = inf
        if self._carrier is not None:
            self._carrier.client_full(False)

    # -- reading requests

    def _advance(self) -> None:
        """Read requests off the buffer until one is under way or more bytes are needed."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._reader.buffer and self.state is _HEAD and self._begin():
                pass
        except Refused as error:
            self.refuse(refusal(error.status, error.message))
        self._advancing = False

    def _begin(self) -> bool:
        """Read one head, and what is there of its body. False when more bytes must come first."""
        reader = self._reader
        server = self._server
        request = reader.head(server.next_id)
        if request is None:
            if reader.buffer and not self._partial:
                self._partial = True
                self.deadline = monotonic() + server.limits.header_seconds
            return False
        self._request = request
        self._partial = False
        server.counters.requests += 1
        reply = server.handler.admit(request.head)
        if reply is not None and request.length:
            self.refuse(reply)
            return False
        body = reader.body()
        if reply is not None:
            self.state = _BUSY
            self.answer(reply)
        elif body is None:
            self.state = _BODY
            self.deadline = monotonic() + server.limits.body_seconds
            if request.shape.expects and not reader.held:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._account()
        elif self._account():
            self._dispatch(request, body)
        return True

    def _read_body(self, data: bytes) -> None:
        request = self._request
        assert request is not None
        try:
            body = self._reader.more(data)
        except Refused as error:
            self.refuse(refusal(error.status, error.message))
            return
        if self._account() and body is not None:
            self._dispatch(request, body)

    def _account(self) -> bool:
        """Count the body bytes kept in memory. False, and refused, when all connections hold too many."""
        counters = self._server.counters
        counters.body_bytes += self._reader.held - self._held
        self._held = self._reader.held
        if counters.body_bytes <= self._server.limits.total_body_bytes:
            return True
        self.refuse(overloaded("too many request bytes are held already"))
        return False

    # -- answering

    def _dispatch(self, request: RequestHead, body: bytes) -> None:
        self.state = _BUSY
        self.deadline = inf
        handler = self._server.handler
        result: Reply | Exchange | Awaitable[Reply | Exchange]
        try:
            if request.shape.websocket:
                result = handler.tunnel(request.head, monotonic())
            else:
                result = handler.handle(request.head, body, monotonic())
        except Exception:  # noqa: BLE001 - whatever fails behind us, the client gets its 500
            _log.exception("handling a request failed")
            self.refuse(refusal(500, "internal error"))
            return
        if hasattr(result, "__await__"):
            self._task = asyncio.ensure_future(cast("Awaitable[Reply | Exchange]", result))
            self._task.add_done_callback(self._handled)
        elif type(result) is Reply:  # isinstance takes 0.1 us on a Struct
            self.answer(result)
        else:
            self._relay(result)

    def _relay(self, exchange: Exchange) -> None:
        assert self._request is not None
        relay = Relay(self, self._request, exchange, self._server)
        self._carrier = relay
        relay.attempt()

    def _handled(self, task: asyncio.Future[Reply | Exchange]) -> None:
        """What had to be awaited is there, or failed, or came too late."""
        self._task = None
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _log.error("handling a request failed", exc_info=error)
            if self.state is _BUSY:
                self.refuse(refusal(500, "internal error"))
            return
        result = task.result()
        if self.state is not _BUSY:
            if not isinstance(result, Reply):
                result.settle(Outcome.ABORTED, monotonic())
        elif isinstance(result, Reply):
            self.answer(result)
        else:
            self._relay(result)

    def answer(self, reply: Reply) -> None:
        """Send an answer of our own, then read on or close."""
        request = self._request
        assert request is not None
        keep = request.shape.keep_alive and not reply.close and not self._server.draining
        connection = b"" if keep else b"Connection: close\r\n"
        if keep and request.shape.old:
            connection = b"Connection: keep-alive\r\n"
        self.transport.write(wire(reply, connection, request.shape.method == b"HEAD"))
        self.finished(keep, monotonic())

    def refuse(self, reply: Reply) -> None:
        """Answer although the request was not read to its end; the connection closes."""
        request = self._request
        head_only = request is not None and request.shape.method == b"HEAD"
        self.transport.write(wire(reply, b"Connection: close\r\n", head_only))
        self._server.counters.refused += 1
        self._close(monotonic())

    def finished(self, keep: bool, now: float) -> None:
        self._carrier = None
        self._request = None
        if self._held:
            self._server.counters.body_bytes -= self._held
            self._held = 0
        if not keep or self._server.draining:
            self._close(now)
            return
        self.state = _HEAD
        limits = self._server.limits
        self.deadline = now + (limits.stall_seconds if self.full else limits.keep_alive_seconds)
        if self._reader.buffer:
            self._advance()

    def tunnelled(self, tunnel: Carrier) -> None:
        self._carrier = tunnel
        self.state = _TUNNEL
        early, self._reader.buffer = self._reader.buffer, b""
        if early:
            tunnel.upload(early)
        if self.full:
            tunnel.client_full(True)

    # -- closing

    def _close(self, now: float) -> None:
        """Close once our bytes are out. A client still sending must not get a reset before it has read them."""
        self._gone()
        self.state = _CLOSING
        self._linger(now)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def cut(self, reset: bool) -> None:
        self._carrier = None
        self._gone()
        if reset:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        else:
            self.state = _CLOSING
            self._linger(monotonic())
            self.transport.close()

    def _linger(self, now: float) -> None:
        self.deadline = now + self._server.limits.linger_seconds
        self._patience = now + self._server.limits.stall_seconds

    def _drop(self) -> None:
        self._gone()
        self.transport.abort()

    def _gone(self) -> None:
        """Whatever was under way for this client ends."""
        self.state = _CLOSED
        carrier, self._carrier = self._carrier, None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if carrier is not None:
            carrier.client_gone(clean=False)
        self._request = None
        self._reader.forget()
        self._server.counters.body_bytes -= self._held
        self._held = 0

    def shut(self) -> None:
        """The router closes, whatever is under way."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.shut()
        self._drop()

    def expired(self, now: float) -> None:
        """`deadline` has passed."""
        if self.state is _BODY:
            self.refuse(refusal(408, "the body did not arrive in time"))
        elif self.state is _HEAD and self._partial:
            self.refuse(refusal(408, "the head did not arrive in time"))
        elif self.state is _CLOSING and now < self._patience and self.transport.get_write_buffer_size():
            self.deadline = now + self._server.limits.linger_seconds
        else:
            self._drop()
