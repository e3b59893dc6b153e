"""A small engine on a real loopback socket, and a listener that writes down what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.fleetwatch.backend import Backend
from kvroute.router.fleetwatch.exposition import Reading
from kvroute.router.fleetwatch.models import Served


async def until(done: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something becomes true that nobody announces."""
    async with asyncio.timeout(seconds):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class FakeEngine:
    """Answers /health, /v1/models, /version and /metrics as vLLM does. Change its attributes to make it misbehave."""

    def __init__(self) -> None:
        self.health = 200
        self.models: list[dict[str, object]] = [{"id": "m", "parent": None, "max_model_len": 8192}]
        self.models_status = 200
        self.prompt_tokens = 100.0
        self.started_at = 1000.0
        self.metrics_status = 200
        self.api_key: str | None = None
        self.hang: asyncio.Event | None = None
        """While set to an event, /health and /metrics wait for it."""
        self.asked: list[str] = []
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    async def start(self) -> None:
        """Listen; on the same port again after a `stop`."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuse connections from now on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.hang is not None and request.path in ("/health", "/metrics"):
            await self.hang.wait()
        if request.path == "/health":
            return web.Response(status=self.health)
        if request.path == "/version":
            return web.json_response({"version": "0.32.0"})
        if request.path == "/v1/models":
            if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
                return web.json_response({"error": "Unauthorized"}, status=401)
            return web.json_response({"object": "list", "data": self.models}, status=self.models_status)
        if request.path == "/metrics":
            return web.Response(text=self.page(), status=self.metrics_status)
        return web.json_response({"detail": "Not Found"}, status=404)

    def page(self) -> str:
        return (
            f"process_start_time_seconds {self.started_at}\n"
            'vllm:num_requests_running{engine="0",model_name="m"} 1.0\n'
            f'vllm:prompt_tokens_total{{engine="0",model_name="m"}} {self.prompt_tokens}\n'
        )


class Journal:
    """A listener; `told` holds (event, detail) in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self._news = asyncio.Event()

    def joined(self, backend: Backend, served: Served, readings: list[Reading], now: float) -> None:
        self._note("joined", (served.models, len(readings)))

    def ejected(self, endpoint: Endpoint, reason: str, now: float) -> None:
        self._note("ejected", reason)

    def recovered(
        self, endpoint: Endpoint, served: Served, readings: list[Reading], restarted: bool, now: float
    ) -> None:
        self._note("recovered", restarted)

    def serving(self, endpoint: Endpoint, served: Served, now: float) -> None:
        self._note("serving", tuple(served.adapters))

    def gone(self, endpoint: Endpoint, now: float) -> None:
        self._note("gone", endpoint.name)

    def scraped(self, endpoint: Endpoint, readings: list[Reading], now: float) -> None:
        self._note("scraped", readings)

    def restarted(self, endpoint: Endpoint, now: float) -> None:
        self._note("restarted", endpoint.name)

    def _note(self, event: str, detail: object) -> None:
        self.told.append((event, detail))
        self._news.set()

    def events(self) -> list[str]:
        """What was told, without the steady stream of readings."""
        return [event for event, _ in self.told if event != "scraped"]

    def detail(self, event: str) -> object:
        """The newest detail of an event."""
        return [detail for name, detail in self.told if name == event][-1]

    async def until(self, done: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until what was told satisfies `done`."""
        async with asyncio.timeout(seconds):
            while not done():
                self._news.clear()
                await self._news.wait()

    async def until_told(self, event: str, times: int = 1) -> None:
        await self.until(lambda: [name for name, _ in self.told].count(event) >= times)
