"""The admin API and dashboard on the control port, an aiohttp application around a `Router`."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import msgspec
import orjson
from aiohttp import web

from kvroute.router.control.contract import Router
from kvroute.router.control.exposition import CONTENT_TYPE
from kvroute.router.control.metrics import Metrics
from kvroute.router.errors import ClientError, NoReplica

ROUTER = web.AppKey("router", Router)
METRICS = web.AppKey("metrics", Metrics)

_KIND_OF_FIELD = (
    ("messages", "/v1/chat/completions"),
    ("prompt", "/v1/completions"),
    ("input", "/v1/responses"),
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_admin(router: Router, metrics: Metrics, *, max_body: int = 64 * 1024 * 1024) -> web.Application:
    """The application. `max_body` bounds what `/explain` reads [bytes]."""
    app = web.Application(middlewares=[guard, errors], client_max_size=max_body)
    app[ROUTER] = router
    app[METRICS] = metrics
    app.add_routes(
        [
            web.get("/", _index),
            web.get("/health", _health),
            web.get("/ready", _ready),
            web.get("/version", _version),
            web.get("/metrics", _metrics),
            web.get("/config", _config),
            web.get("/replicas", _replicas),
            web.post("/replicas/{name:.+}/drain", _drain),
            web.post("/replicas/{name:.+}/undrain", _undrain),
            web.post("/explain", _explain),
        ]
    )
    return app


class ControlServer:
    """Serves the application on the control port."""

    def __init__(self, app: web.Application, host: str = "127.0.0.1", port: int = 0) -> None:
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        self._host = host
        self._port = port

    async def start(self) -> int:
        """Listen, and answer the port. Raises OSError when it is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        port: int = self._runner.addresses[0][1]
        return port

    async def close(self) -> None:
        await self._runner.cleanup()


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keep web pages that the operator visits from reaching a control port that listens on the operator's machine."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.partition("://")[2] != request.host
    if request.method != "GET" and (site not in ("none", "same-origin") or foreign):
        return error_reply(403, "this request came from a page of another site")
    if _on_loopback(request) and not _names_loopback(request.host):
        return error_reply(403, f"host {request.host!r} is not this machine's loopback; use 127.0.0.1 or localhost")
    return await handler(request)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors in the shape that clients of the control plane read."""
    try:
        return await handler(request)
    except (ClientError, NoReplica) as error:
        return error_reply(error.status, error.message)
    except web.HTTPException as error:
        return error_reply(error.status, error.reason)


async def _index(request: web.Request) -> web.Response:
    page = (files("kvroute.router.control") / "index.html").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
    return web.Response(
        text=page,
        content_type="text/html",
        headers={"Content-Security-Policy": policy + "; img-src data:", "X-Frame-Options": "DENY"},
    )


async def _health(request: web.Request) -> web.Response:
    return web.Response()


async def _ready(request: web.Request) -> web.Response:
    ready = request.app[ROUTER].ready()
    return json_reply({"ready": ready}, 200 if ready else 503)


async def _version(request: web.Request) -> web.Response:
    router = request.app[ROUTER]
    return json_reply({"version": router.version, "policy": router.policy})


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(body=await request.app[METRICS].page(), headers={"Content-Type": CONTENT_TYPE})


async def _config(request: web.Request) -> web.Response:
    return json_reply(request.app[ROUTER].configuration())


async def _replicas(request: web.Request) -> web.Response:
    router = request.app[ROUTER]
    about = {"version": router.version, "policy": router.policy, "sharing": router.sharing()}
    return json_reply({**about, "replicas": router.replicas()})


async def _drain(request: web.Request) -> web.Response:
    return _change(request, request.app[ROUTER].drain)


async def _undrain(request: web.Request) -> web.Response:
    return _change(request, request.app[ROUTER].undrain)


async def _explain(request: web.Request) -> web.Response:
    body = await request.read()
    path = request.query.get("path") or _guess_path(body)
    return json_reply(await request.app[ROUTER].explain(path.encode(), body))


def _change(request: web.Request, change: Callable[[str], None]) -> web.Response:
    name = request.match_info["name"]
    try:
        change(name)
    except KeyError:
        return error_reply(404, f"no replica is called {name!r}; GET /replicas lists them")
    states = {replica.name: replica.state for replica in request.app[ROUTER].replicas()}
    return json_reply({"name": name, "state": states.get(name, "gone")})


def _guess_path(body: bytes) -> str:
    """The serving path that a body is most likely meant for."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        fields = None
    if isinstance(fields, dict):
        for field, path in _KIND_OF_FIELD:
            if field in fields:
                return path
    return "/v1/chat/completions"


def _on_loopback(request: web.Request) -> bool:
    name: tuple[Any, ...] | None = request.transport.get_extra_info("sockname") if request.transport else None
    return name is not None and ipaddress.ip_address(str(name[0]).partition("%")[0]).is_loopback


def _names_loopback(host: str) -> bool:
    """Whether a Host header means this machine: a name that only resolves here would be DNS rebinding."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def json_reply(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def error_reply(status: int, message: str) -> web.Response:
    return json_reply({"error": {"message": message, "code": status}}, status)
