"""Many clients and replicas that misbehave at random, all at once: whatever happens, every exchange ends once."""

from __future__ import annotations

import asyncio
import random

from kvroute.router.dataplane.contract import Exchange, Head, Outcome, Reply
from kvroute.router.dataplane.limits import Limits
from tests.router.dataplane.stage import Journey, Stage, reached

CLIENTS = 60
ROUNDS = 6
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: a\n\n\r\n"
STREAM = SSE + EVENT * 20 + b"0\r\n\r\n"


async def misbehaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """A replica's connection: answers well or badly, slowly, cut short, or not at all."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"Content-Length: 2" in head:
                await reader.readexactly(2)
            reply = rng.choice((OK, STREAM, STREAM, b"HTTP/1.1 204 No Content\r\n\r\n", b"nonsense\r\n\r\n"))
            if rng.random() < 0.3:
                reply = reply[: rng.randrange(len(reply))]
            while reply:
                size = rng.randrange(1, 200)
                writer.write(reply[:size])
                reply = reply[size:]
                await writer.drain()
                if rng.random() < 0.2:
                    await asyncio.sleep(rng.random() * 0.003)
            if rng.random() < 0.3:
                break
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        rng.choice((writer.close, writer.transport.abort))()


async def customer(stage: Stage, rng: random.Random) -> None:
    """A client: sends whole or partial requests, reads all, some or nothing, and leaves as it likes."""
    for _ in range(ROUNDS):
        try:
            wire = await stage.client()
            request = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}" * rng.randrange(1, 4)
            if rng.random() < 0.2:
                request = request[: rng.randrange(len(request))]
            await wire.send(request)
            async with asyncio.timeout(rng.random() * 0.05):
                while await wire.reader.read(1000):
                    pass
        except (TimeoutError, ConnectionError):
            pass
        rng.choice((wire.close, wire.abort, wire.writer.write_eof))()


async def test_every_exchange_ends_exactly_once(empty_stage: Stage) -> None:
    """No exchange is lost, none is settled twice, no bytes stay counted: the stage checks it when it closes."""
    rng = random.Random(7)
    stage = await empty_stage.open(Limits(linger_seconds=0.1, connect_seconds=0.5))
    replicas = [await stage.replica() for _ in range(2)]
    servers = []
    for number, _ in enumerate(replicas):
        seeded = random.Random(number)
        server = await asyncio.start_server(lambda r, w, seeded=seeded: misbehaving(r, w, seeded), "127.0.0.1", 0)  # type: ignore[misc]
        servers.append(server)
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    endpoints = [type(replica.endpoint)("127.0.0.1", port) for replica, port in zip(replicas, ports, strict=True)]

    def answer(head: Head, body: bytes) -> Reply | Exchange | asyncio.Future[Reply | Exchange]:
        journey = Journey(rng.sample(endpoints, 2), body)
        stage.director.journeys.append(journey)
        if rng.random() < 0.5:
            return journey
        later: asyncio.Future[Reply | Exchange] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(rng.random() * 0.005, _deliver, later, journey)
        return later

    stage.director.answers = answer
    await asyncio.gather(*(customer(stage, random.Random(seed)) for seed in range(CLIENTS)))
    await reached(lambda: not stage.plane.clients)
    await reached(lambda: stage.plane.counters.relays == 0)
    for server in servers:
        server.close()
    outcomes = [outcome for journey in stage.director.journeys for outcome in journey.outcomes]
    assert Outcome.COMPLETED in outcomes
    assert len(set(outcomes)) > 1  # which ones, besides, depends on how quick the machine is


def _deliver(later: asyncio.Future[Reply | Exchange], journey: Journey) -> None:
    """An awaited handler that was cancelled settles what it had begun; otherwise its exchange goes on."""
    if later.cancelled():
        journey.settle(Outcome.ABORTED, 0.0)
    else:
        later.set_result(journey)
