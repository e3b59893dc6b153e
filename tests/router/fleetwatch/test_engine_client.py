"""Small questions to engines over HTTP."""

from __future__ import annotations

import asyncio
import socket

import pytest

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.fleetwatch import engine_client
from kvroute.router.fleetwatch.engine_client import EngineClient, Unreachable
from tests.router.fleetwatch.fakes import FakeEngine


async def test_a_base_path_is_kept(engine: FakeEngine, client: EngineClient) -> None:
    """The URL's own path stands before what is asked."""
    endpoint = Endpoint("127.0.0.1", engine.port, base=b"/team/a%20b")
    status, _ = await client.get(endpoint, "/health", 2.0)
    assert (status, engine.asked) == (404, ["/team/a b/health"])


async def test_a_refused_connection_says_so(engine: FakeEngine, client: EngineClient) -> None:
    """Refusal is told apart from slowness."""
    await engine.stop()
    with pytest.raises(Unreachable, match="cannot connect") as caught:
        await client.get(engine.endpoint, "/health", 2.0)
    assert caught.value.refused


async def test_a_slow_answer_is_given_up(engine: FakeEngine, client: EngineClient) -> None:
    """The time limit covers the whole exchange; a slow engine did not refuse."""
    engine.hang = asyncio.Event()
    with pytest.raises(Unreachable, match=r"within 0\.05 s") as caught:
        await client.get(engine.endpoint, "/health", 0.05)
    assert not caught.value.refused


async def test_a_name_that_does_not_resolve_is_not_a_refusal(client: EngineClient) -> None:
    """A name server's trouble says nothing about the engine."""
    with pytest.raises(Unreachable) as caught:
        await client.get(Endpoint("no-such-host.invalid", 80), "/health", 2.0)
    assert not caught.value.refused


async def test_what_is_not_http_is_unreachable(client: EngineClient) -> None:
    """A server that talks another protocol gives a plain error."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 hello\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0, family=socket.AF_INET)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable) as caught:
            await client.get(Endpoint("127.0.0.1", port), "/health", 2.0)
    assert not caught.value.refused


async def test_an_endless_answer_is_cut(
    engine: FakeEngine, client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No engine can fill the router's memory."""
    monkeypatch.setattr(engine_client, "MAX_ANSWER_BYTES", 10)
    with pytest.raises(Unreachable, match="larger than 10 bytes"):
        await client.get(engine.endpoint, "/metrics", 2.0)


async def test_the_key_is_sent(engine: FakeEngine) -> None:
    """Engines started with --api-key let the router in."""
    engine.api_key = "secret"
    client = EngineClient("secret")
    status, _ = await client.get(engine.endpoint, "/v1/models", 2.0)
    await client.close()
    assert status == 200
