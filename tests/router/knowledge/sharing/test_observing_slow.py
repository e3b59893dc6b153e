"""Routers that share what engines say through a real server far away."""

from __future__ import annotations

import asyncio
import contextlib

from kvroute.router.knowledge.sharing.place import place
from kvroute.router.knowledge.sharing.store import Trouble
from tests.router.knowledge.sharing.servers import Server
from tests.router.knowledge.sharing.test_observing_live import live, shared


class Slow:
    """A proxy before the server: every byte takes 35 ms more, each way."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._carry(reader, onward), self._carry(onward_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                loop.call_later(0.035, writer.write, data)
        loop.call_later(0.035, writer.close)

    async def close(self) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_a_slow_server(redis_server: Server) -> None:
    """With 70 ms more there and back, routers share all the same, only later, and it is told."""
    redis_server.tell("FLUSHALL")
    slow = Slow(redis_server.port)
    async with live(place(await slow.open())) as routers:
        await shared(routers)
        assert all(router.sharing.health.trouble is Trouble.SLOW for router in routers)
    await slow.close()
