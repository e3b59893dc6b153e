"""The stand-in engine as a server: routes, life cycle, and the in-process handle that tests hold."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeAlias

import msgspec
from aiohttp import web

from kvroute.router.testing import completions, management, messages, responses
from kvroute.router.testing.faults import Cut, Faults
from kvroute.router.testing.options import Options
from kvroute.router.testing.service import Service
from kvroute.router.testing.wire import Refusal, reply

Handler: TypeAlias = Callable[[Service, web.Request], Awaitable[web.StreamResponse]]

_GENERATING: dict[str, Handler] = {
    "/v1/completions": completions.completions,
    "/v1/chat/completions": completions.chat_completions,
    "/v1/responses": responses.responses,
    "/v1/messages": messages.messages,
}
_POST: dict[str, Handler] = {
    "/v1/messages/count_tokens": messages.count_tokens,
    "/v1/responses/{id}/cancel": responses.cancel_response,
    "/tokenize": management.tokenize,
    "/detokenize": management.detokenize,
    "/v1/chat/completions/render": management.scale_out,
    "/v1/completions/render": management.scale_out,
    "/v1/responses/render": management.scale_out,
    "/v1/messages/render": management.scale_out,
    "/inference/v1/generate": management.scale_out,
    "/sleep": management.sleep,
    "/wake_up": management.wake_up,
    "/pause": management.pause,
    "/resume": management.resume,
    "/reset_prefix_cache": management.reset_prefix_cache,
    "/release_kv_cache_memory": management.release_kv_cache_memory,
    "/ping": management.health,
}
_GET: dict[str, Handler] = {
    "/v1/responses/{id}": responses.response_by_id,
    "/health": management.health,
    "/ping": management.health,
    "/version": management.version,
    "/load": management.load,
    "/metrics": management.show_metrics,
    "/v1/models": management.models,
    "/kv_event_sources": management.kv_event_sources,
    "/is_sleeping": management.is_sleeping,
    "/is_paused": management.is_paused,
}


class StandInEngine:
    """A stand-in engine in this process: `async with StandInEngine(Options(...)) as engine: engine.url`.

    It has no model: sampling parameters are checked but change nothing, there are no logprobs, stop strings or tool
    calls, and a reply ends at its limit (or, without one, at `Options.output_tokens`).

    After `stop` it can be started again, on the same port, as a fresh engine: cold cache, counters at zero.
    """

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or Options()
        self._port = self._options.port
        self._service: Service | None = None
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, at once or (in the background) when the start-up time is over; the port is taken in any case."""
        service = self._service = Service(self._options)
        runner = self._runner = web.AppRunner(
            _application(service), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        taken = _bound_socket(self._options.host, self._port)
        self._port = taken.getsockname()[1]
        self._listening = asyncio.create_task(_listen(runner, taken, self._options.startup_seconds))
        if not self._options.startup_seconds:
            await self._listening

    async def stop(self) -> None:
        """Drop all connections and stop listening."""
        if self._runner is None or self._service is None:
            return
        server = self._runner.server
        if server is not None:
            for connection in server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._runner.cleanup()
        await self._service.close()
        self._runner = None

    async def __aenter__(self) -> StandInEngine:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def service(self) -> Service:
        """What stands behind the HTTP surface. Of the present life: `start` makes a new one."""
        if self._service is None:
            raise RuntimeError("the stand-in engine has not been started")
        return self._service

    @property
    def options(self) -> Options:
        """What it was made with, the port in use filled in."""
        return msgspec.structs.replace(self._options, port=self._port)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def url(self) -> str:
        """Its base URL, e.g. `http://127.0.0.1:8000`."""
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        return f"http://{host}:{self._port}"

    @property
    def faults(self) -> Faults:
        """Orders for the next requests to fail."""
        return self.service.faults

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return sum(len(rank.live.engine.running) for rank in self.service.ranks)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return sum(len(rank.live.engine.waiting) for rank in self.service.ranks)

    @property
    def requests_seen(self) -> int:
        """Requests to generating paths so far."""
        return self.service.requests_seen

    @property
    def aborted(self) -> int:
        """Requests whose client went away before their end."""
        return self.service.aborted

    @property
    def queried_tokens(self) -> int:
        """`vllm:prefix_cache_queries_total`."""
        return sum(rank.live.engine.totals.queried_tokens for rank in self.service.ranks)

    @property
    def hit_tokens(self) -> int:
        """`vllm:prefix_cache_hits_total`."""
        return sum(rank.live.engine.totals.hit_tokens for rank in self.service.ranks)


def _bound_socket(host: str, port: int) -> socket.socket:
    """A socket that has its port but does not listen yet: connecting to it is refused, as while vLLM loads."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    return made


async def _listen(runner: web.AppRunner, taken: socket.socket, after: float) -> None:
    try:
        await asyncio.sleep(after)
        await web.SockSite(runner, taken).start()
    except asyncio.CancelledError:
        taken.close()
        raise


def _application(service: Service) -> web.Application:
    application = web.Application(client_max_size=1 << 30, middlewares=[_front(service)])
    router = application.router
    for path, handler in _GENERATING.items():
        router.add_post(path, _generating(service, handler))
    for path, handler in _POST.items():
        router.add_post(path, _bound(service, handler))
    for path, handler in _GET.items():
        router.add_get(path, _bound(service, handler), allow_head=False)
    return application


def _bound(service: Service, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(service, request)

    return handle


def _generating(service: Service, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        service.requests_seen += 1
        service.in_flight += 1
        try:
            return await handler(service, request)
        finally:
            service.in_flight -= 1

    return handle


def _front(service: Service) -> Callable[..., Awaitable[web.StreamResponse]]:
    """What every answer goes through: the API key, error shapes, the request id's echo."""
    options = service.options
    echo = options.enable_request_id_headers
    demanded = f"Bearer {options.api_key}" if options.api_key else None

    @web.middleware
    async def front(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if demanded and request.path.startswith("/v1") and request.headers.get("Authorization") != demanded:
            return reply({"error": "Unauthorized"}, 401)
        response: web.StreamResponse
        try:
            response = await handler(request)
        except Refusal as refusal:
            response = refusal.response()
        except Cut:
            return web.Response()
        except web.HTTPMethodNotAllowed as error:
            response = reply({"detail": "Method Not Allowed"}, 405)
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        except web.HTTPNotFound:
            response = reply({"detail": "Not Found"}, 404)
        if echo and not response.prepared:
            response.headers["X-Request-Id"] = request.headers.get("X-Request-Id") or secrets.token_hex(16)
        return response

    return front
