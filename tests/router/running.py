"""A whole router in this process, in front of stand-in engines, and a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from kvroute.router.config import load
from kvroute.router.server import Server
from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options
from kvroute.scorers.contract import Column

QUICK = {
    "watch.health.interval": 0.1,
    "watch.scrape.interval": 0.1,
    "watch.discover_retry": 0.05,
    "limits.linger_seconds": 0.1,
    "listen.host": "127.0.0.1",
    "listen.port": 0,
    "listen.control_port": 0,
}


class Running:
    """One router and a client session with its address."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    @property
    def url(self) -> str:
        """The main port's base URL."""
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def control(self) -> str:
        """The control port's base URL."""
        return f"http://127.0.0.1:{self.server.control_port}"

    async def chat(self, text: str, **fields: Any) -> tuple[int, dict[str, str], Any]:
        """One chat completion that is not streamed: status, headers, JSON."""
        body = {"model": "mock", "max_tokens": 4, "messages": [{"role": "user", "content": text}], **fields}
        headers = {"X-Kvroute-Explain": "1"}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
            return answer.status, dict(answer.headers), await answer.json(content_type=None)

    async def get(self, path: str) -> tuple[int, Any]:
        """A GET on the main port: status and JSON, or text."""
        async with self.session.get(self.url + path) as answer:
            text = await answer.text()
            return answer.status, await answer.json() if "json" in answer.headers.get("Content-Type", "") else text


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that is to become true; fails when it does not."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - the state waited for is another component's, which sets no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(*backends: str, ready: int | None = None, **settings: Any) -> AsyncIterator[Running]:
    """A started router whose first `ready` replicas (default: all) have joined; asserts at the end that it is idle."""
    options = {key.replace("__", "."): value for key, value in settings.items()}
    server = Server(load(None, {"backends": list(backends), **QUICK, **options}))
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            wanted = len(backends) if ready is None else ready
            await until(lambda: server.deciding.fleet.everyone().size >= wanted)
            yield Running(server, session)
        await until(lambda: len(server.deciding.ledger) == 0)
        for replica in server.deciding.fleet:
            assert replica.open == replica.pending == 0
            assert replica.cells[Column.QUEUED_TOKENS] == 0.0
            assert replica.cells[Column.ACTIVE_TOKENS] == 0.0
    finally:
        await server.close()


@asynccontextmanager
async def engines(count: int, **options: Any) -> AsyncIterator[list[StandInEngine]]:
    """Started stand-in engines of model `mock`."""
    made = [StandInEngine(Options(**options)) for _ in range(count)]
    for engine in made:
        await engine.start()
    try:
        yield made
    finally:
        for engine in made:
            await engine.stop()
