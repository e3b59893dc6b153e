"""What becomes of a request whose replica dies under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.router.running import engines, running

BODY = {"model": "mock", "prompt": "hello", "max_tokens": 2}


class Doorway:
    """A port in front of an engine. Once doomed it still takes connections and requests, and then resets them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.doomed = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries bytes both ways until either side ends."""
        inner, outer = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(self._carry(inner, writer))
        await self._carry(reader, outer)
        writer.transport.abort()
        outer.transport.abort()
        await back

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while True:
            try:
                data = await source.read(65536)
            except ConnectionError:
                return
            if not data or self.doomed:
                return
            target.write(data)


@asynccontextmanager
async def doorway(port: int) -> AsyncIterator[tuple[Doorway, str]]:
    """A doorway and its URL."""
    door = Doorway(port)
    server = await asyncio.start_server(door.serve, "127.0.0.1", 0)
    async with server:
        yield door, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_dying_replica_that_still_takes_connections_costs_nobody_an_answer() -> None:
    """It drops the kept connection, then resets the fresh one: one endpoint has failed, so another is tried."""
    async with (
        engines(2) as (first, second),
        doorway(first.port) as (door, url),
        running(url, second.url, policy="round-robin", watch__health__interval=30) as router,
    ):
        for _ in range(4):  # both replicas have answered, and their connections are kept
            assert await _status(router.session, router.url) == 200
        door.doomed = True
        assert [await _status(router.session, router.url) for _ in range(4)] == [200] * 4


async def _status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.post(f"{url}/v1/completions", json=BODY) as answer:
        await answer.read()
        return answer.status
