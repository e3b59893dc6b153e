"""A stage for transcripts: raw clients, scripted replicas, and a handler that writes down what it is told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Self

from kvroute.router.dataplane.contract import Endpoint, Exchange, Failure, Head, Headers, Outcome, Reply
from kvroute.router.dataplane.limits import Limits
from kvroute.router.dataplane.server import DataPlane

PATIENCE = 5.0
"""Seconds after which a wire that stays silent has failed its test."""


async def reached(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for sends no event
            await asyncio.sleep(0.0005)


class Wire:
    """One connection, read and written as bytes, whichever side it is."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Each piece in a segment of its own, as far as the kernel plays along."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.002)

    async def head(self) -> bytes:
        """Everything up to and including an empty line."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """Everything until the other side closes; a reset shows as ConnectionError."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def gone(self) -> None:
        """Wait until the other side has closed both ways, whatever it still sends: it takes no more bytes."""
        async with asyncio.timeout(PATIENCE):
            try:
                await self.reader.read()
                while True:
                    self.writer.write(b"x")
                    await self.writer.drain()
                    await asyncio.sleep(0.0005)
            except ConnectionError:
                return

    async def message(self) -> tuple[bytes, bytes]:
        """A head, and the body that its Content-Length announces."""
        head = await self.head()
        return head, await self.exactly(length_of(head))

    def silent(self) -> bool:
        """Nothing has arrived that was not read."""
        return not self.reader._buffer  # type: ignore[attr-defined]

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


def length_of(head: bytes) -> int:
    """The Content-Length in a head, 0 without one."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def headers_of(head: bytes) -> dict[bytes, bytes]:
    """Headers by lower-case name; a repeated one would be a failure of the test that uses this."""
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:] if line]
    assert len({name.lower() for name, _, _ in lines}) == len(lines), head
    return {name.lower(): value for name, _, value in lines}


class Replica:
    """Listens; each connection that the router opens is handed to the test."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Wire] = asyncio.Queue()
        self.opened = 0
        self.endpoint = Endpoint("127.0.0.1", 0)
        self._wires: list[Wire] = []
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", context: ssl.SSLContext | None = None, base: bytes = b"") -> Self:
        self._server = await asyncio.start_server(self._accept, host, 0, ssl=context)
        port = self._server.sockets[0].getsockname()[1]
        self.endpoint = Endpoint(host, port, context is not None, base)
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        self.opened += 1
        self._wires.append(wire)
        self.connections.put_nowait(wire)

    async def accept(self) -> Wire:
        async with asyncio.timeout(PATIENCE):
            return await self.connections.get()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for wire in self._wires:
            wire.abort()


class Journey:
    """An exchange that goes to the endpoints given, in turn, and notes what it hears."""

    def __init__(self, endpoints: list[Endpoint], body: bytes) -> None:
        self.endpoint = endpoints[0]
        self.body = body
        self.request_headers: Headers = ()
        self.response_headers: Headers = ()
        self.notes: list[str] = []
        self.outcomes: list[Outcome] = []
        self.first = b""
        self.last = b""
        self.pieces: list[int] = []
        self.failures: list[Failure] = []
        self.done = asyncio.Event()
        self._next = endpoints[1:]

    def body_sent(self) -> None:
        self.notes.append("body_sent")

    def replied(self, status: int, streaming: bool, now: float) -> None:
        self.notes.append(f"replied {status}{' streaming' if streaming else ''}")

    def first_output(self, now: float) -> None:
        self.notes.append("first_output")

    def head(self, data: bytes) -> None:
        assert not self.first
        self.first = data

    def streamed(self, pieces: int) -> None:
        assert not self.last
        assert not self.outcomes
        self.pieces.append(pieces)

    def tail(self, data: bytes, streaming: bool) -> None:
        self.last = data
        self.notes.append("tail")

    def failed(self, failure: Failure, now: float) -> Reply | None:
        self.failures.append(failure)
        self.notes.append(f"failed {failure.value}")
        if not self._next:
            return Reply(502, b'{"error":{"message":"no replica","type":"BadGateway","param":null,"code":502}}')
        self.endpoint = self._next.pop(0)
        return None

    def settle(self, outcome: Outcome, now: float) -> None:
        self.outcomes.append(outcome)
        self.notes.append(outcome.value)
        self.done.set()

    async def settled(self) -> Outcome:
        async with asyncio.timeout(PATIENCE):
            await self.done.wait()
        return self.outcomes[0]


class Director:
    """A handler that forwards everything to `route`, unless a test sets another answer."""

    def __init__(self) -> None:
        self.route: list[Endpoint] = []
        self.heads: list[Head] = []
        self.bodies: list[bytes] = []
        self.journeys: list[Journey] = []
        self.refuses: Callable[[Head], Reply | None] = lambda head: None
        self.answers: Callable[[Head, bytes], Reply | Exchange | Awaitable[Reply | Exchange] | None] = (
            lambda head, body: None
        )

    @property
    def journey(self) -> Journey:
        return self.journeys[-1]

    def forward(self, body: bytes) -> Journey:
        journey = Journey(list(self.route), body)
        self.journeys.append(journey)
        return journey

    def admit(self, head: Head) -> Reply | None:
        return self.refuses(head)

    def handle(self, head: Head, body: bytes, now: float) -> Reply | Exchange | Awaitable[Reply | Exchange]:
        self.heads.append(head)
        self.bodies.append(body)
        answer = self.answers(head, body)
        return self.forward(body) if answer is None else answer

    def tunnel(self, head: Head, now: float) -> Reply | Exchange:
        self.heads.append(head)
        return self.forward(b"")


class Stage:
    """A data plane with its clients and replicas. Leaving it checks that nothing was left behind."""

    def __init__(self) -> None:
        self.director = Director()
        self.plane: DataPlane
        self.port = 0
        self._replicas: list[Replica] = []
        self._clients: list[Wire] = []

    async def open(
        self,
        limits: Limits | None = None,
        *,
        host: str = "127.0.0.1",
        context: ssl.SSLContext | None = None,
        replica_ssl: ssl.SSLContext | None = None,
    ) -> Self:
        self.plane = DataPlane(self.director, limits, replica_ssl)
        await self.plane.start(host, 0, context=context)
        self.port = self.plane.ports[0]
        return self

    async def replica(
        self, host: str = "127.0.0.1", context: ssl.SSLContext | None = None, base: bytes = b""
    ) -> Replica:
        """One more replica; the director's route ends there."""
        replica = await Replica().start(host, context, base)
        self._replicas.append(replica)
        self.director.route.append(replica.endpoint)
        return replica

    async def client(self, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> Wire:
        reader, writer = await asyncio.open_connection(
            host, self.port, ssl=context, server_hostname="localhost" if context else None
        )
        wire = Wire(reader, writer)
        self._clients.append(wire)
        return wire

    async def close(self) -> None:
        await self.plane.close()
        for wire in self._clients:
            wire.abort()
        for replica in self._replicas:
            await replica.stop()
        await reached(lambda: not self.plane.clients)
        for journey in self.director.journeys:
            assert len(journey.outcomes) == 1, f"settled {len(journey.outcomes)} times: {journey.notes}"
            assert len(journey.pieces) <= 1
        assert self.plane.counters.relays == 0
        assert self.plane.counters.body_bytes == 0
        assert self.plane.counters.open_connections == 0
