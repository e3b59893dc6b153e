"""WebSocket through the router: the upgrade, bytes both ways, and who closes."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from kvroute.router.dataplane.contract import Endpoint, Outcome, Reply
from tests.router.dataplane.stage import Replica, Stage, Wire, headers_of, reached

UPGRADE = (
    b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def opened(client: Wire, replica: Replica) -> Wire:
    """The replica's side of a tunnel that stands."""
    await client.send(UPGRADE)
    upstream = await replica.accept()
    headers = headers_of(await upstream.head())
    assert headers[b"connection"] == b"Upgrade"
    assert headers[b"upgrade"] == b"websocket"
    await upstream.send(SWITCHED + b"first")
    assert await client.exactly(len(SWITCHED) + 5) == SWITCHED + b"first"
    return upstream


async def test_a_websocket_library_talks_through(stage: Stage) -> None:
    """The websockets package, as client and as server, sees no router."""

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        stage.director.route.append(Endpoint("127.0.0.1", port))
        async with connect(f"ws://127.0.0.1:{stage.plane.ports[0]}/v1/realtime", proxy=None) as socket:
            for message in ("hello", b"\0" * 300_000):
                await socket.send(message)
                assert await socket.recv() == message
    assert await stage.director.journey.settled() is Outcome.COMPLETED


async def test_bytes_go_both_ways_unread(stage: Stage, client: Wire, replica: Replica) -> None:
    """Once switched, anything passes, also what looks like HTTP."""
    upstream = await opened(client, replica)
    await client.send(b"GET / HTTP/1.1\r\n\r\n\0")
    assert await upstream.exactly(19) == b"GET / HTTP/1.1\r\n\r\n\0"
    await upstream.send(b"HTTP/1.1 200 OK\r\n\r\n")
    assert await client.exactly(19) == b"HTTP/1.1 200 OK\r\n\r\n"
    upstream.close()
    assert await client.rest() == b""
    assert stage.director.journey.outcomes == [Outcome.COMPLETED]


async def test_what_the_client_sent_early_is_not_lost(stage: Stage, client: Wire, replica: Replica) -> None:
    """Bytes behind the upgrade request wait for the switch."""
    await client.send(UPGRADE + b"early")
    upstream = await replica.accept()
    await upstream.head()
    assert upstream.silent()
    await upstream.send(SWITCHED)
    assert await client.head() == SWITCHED
    assert await upstream.exactly(5) == b"early"
    client.close()
    assert await upstream.rest() == b""


async def test_a_replica_may_decline(stage: Stage, client: Wire, replica: Replica) -> None:
    """Another status than 101 is an ordinary reply, and the connection goes on."""
    reply = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
    await client.send(UPGRADE)
    upstream = await replica.accept()
    await upstream.head()
    await upstream.send(reply)
    assert await client.exactly(len(reply)) == reply
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await upstream.head()
    await upstream.send(reply)
    assert await client.exactly(len(reply)) == reply


async def test_other_upgrades_are_ignored(stage: Stage, client: Wire, replica: Replica) -> None:
    """An upgrade to anything but WebSocket (h2c above all) is answered as if it had not been asked for."""
    await client.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABk\r\n\r\n"
    )
    upstream = await replica.accept()
    assert set(headers_of(await upstream.head())) == {b"host", b"x-request-id", b"x-forwarded-for"}
    await upstream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert await client.head() == b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize("who", ["client", "replica"])
async def test_one_sides_loss_ends_the_other(stage: Stage, client: Wire, replica: Replica, who: str) -> None:
    """A lost side takes the other with it."""
    upstream = await opened(client, replica)
    lost, other = (client, upstream) if who == "client" else (upstream, client)
    lost.abort()
    await other.gone()
    assert len(stage.director.journey.outcomes) == 1


async def test_neither_side_floods_the_other(stage: Stage, client: Wire, replica: Replica) -> None:
    """A side that does not read holds the other one back."""
    upstream = await opened(client, replica)
    for reading, writing in ((client, upstream), (upstream, client)):
        reading.reader._transport.pause_reading()  # type: ignore[attr-defined]
        writing.writer.write(b"x" * 32 * 1024 * 1024)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await writing.writer.drain()
    (connection,) = stage.plane.clients
    assert connection.transport.get_write_buffer_size() < 400 * 1024


async def test_a_handler_may_refuse_a_tunnel(stage: Stage, client: Wire) -> None:
    """A Reply from `tunnel` is the answer."""
    stage.director.tunnel = lambda head, now: Reply(403, b"{}")  # type: ignore[method-assign]
    await client.send(UPGRADE)
    assert (await client.head()).startswith(b"HTTP/1.1 403 ")


async def test_closing_the_router_ends_tunnels(stage: Stage, client: Wire, replica: Replica) -> None:
    """A tunnel is no reason to live on."""
    upstream = await opened(client, replica)
    await stage.plane.close()
    await upstream.gone()
    await reached(lambda: stage.director.journey.outcomes == [Outcome.FAILED])
