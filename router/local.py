"""The router's own paths on the main port, and management calls spread over every replica."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import aiohttp
import orjson

from kvroute.router import replies
from kvroute.router.control.exposition import CONTENT_TYPE
from kvroute.router.control.metrics import Metrics
from kvroute.router.core.replica import State
from kvroute.router.dataplane.contract import Endpoint, Head, Reply
from kvroute.router.fleetwatch.backend import Backend
from kvroute.router.membership import Membership

BROADCAST_SECONDS = 120.0
"""Longest wait for one engine's answer to a management call: putting a model to sleep takes time."""
_NOT_PASSED = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"keep-alive", b"te", b"upgrade"}
)


class Pages(Protocol):
    """Who has the metrics page."""

    async def page(self) -> bytes: ...


class LocalPaths:
    """Implements the traffic's Local."""

    def __init__(
        self,
        membership: Membership,
        metrics: Metrics,
        version: str,
        session: Callable[[], Any],
        missing: Callable[[], list[tuple[Backend, str]]],
        discover: Callable[[Endpoint], Awaitable[None]],
    ) -> None:
        """`discover` looks anew at what an endpoint serves, after a call that may have changed it."""
        self._membership = membership
        self.pages: Pages = metrics
        """What /metrics answers; one of several workers puts the page of all here."""
        self.adapters_changed: Callable[[], None] | None = None
        """Told when engines were asked to load or unload an adapter: other processes route to them too."""
        self._version = version
        self._session = session
        self._missing = missing
        self._discover = discover

    def ready(self) -> bool:
        """At least one replica is ready."""
        return any(replica.state is State.READY for _, replica in self._membership)

    def answer(self, path: bytes) -> Reply | Awaitable[Reply]:
        """One of `paths.LOCAL`."""
        if path == b"/v1/models":
            return replies.json({"object": "list", "data": self.models()})
        if path == b"/ready":
            return self._ready()
        if path == b"/version":
            return replies.json({"version": self._version})
        if path == b"/metrics":
            return self._page()
        return Reply(200)

    async def _page(self) -> Reply:
        return Reply(200, await self.pages.page(), (), CONTENT_TYPE.encode())

    def models(self) -> list[Any]:
        """The union of what the engines list; the first engine's entry stands for all that serve the name."""
        entries: dict[str, Any] = {}
        for member in self._membership.members.values():
            if member.served is None:
                continue
            for entry in member.served.entries:
                entries.setdefault(str(entry.get("id")), entry)
            for name in member.served.models:
                entries.setdefault(name, {"id": name, "object": "model", "owned_by": "vllm"})
        return list(entries.values())

    def _ready(self) -> Reply:
        states = [replica.state.value for _, replica in self._membership]
        count = {state.value: states.count(state.value) for state in State if state is not State.GONE}
        told = {"ready": self.ready(), "replicas": count, "missing": self.missing()}
        return replies.json(told, 200 if self.ready() else 503)

    def missing(self) -> dict[str, str]:
        """Endpoint -> why it does not serve, for those that are listed and do not."""
        return {backend.endpoint.name: reason for backend, reason in self._missing()}

    async def broadcast(self, head: Head, body: bytes) -> Reply:
        """Send a management call to every endpoint that is up; each one's answer stands under its name.

        The status is the worst of theirs: a call that one engine refused has not been carried out everywhere.
        """
        endpoints = self._endpoints()
        if not endpoints:
            return replies.error(503, "no replica is up", "ServiceUnavailableError")
        answers = await asyncio.gather(*(self._send(endpoint, head, body) for endpoint in endpoints))
        if head.path.endswith(b"_lora_adapter"):
            if self.adapters_changed is not None:
                self.adapters_changed()
            await self.rediscover()
        status = max(status for _, status, _ in answers)
        return replies.json({name: {"status": code, "body": text} for name, code, text in answers}, status)

    async def rediscover(self) -> None:
        """Look anew at what every engine serves."""
        await asyncio.gather(*(self._discover(endpoint) for endpoint in self._endpoints()))

    def _endpoints(self) -> list[Endpoint]:
        """Those that are up."""
        return [member.backend.endpoint for member in self._membership.members.values() if member.up]

    async def _send(self, endpoint: Endpoint, head: Head, body: bytes) -> tuple[str, int, Any]:
        scheme = "https" if endpoint.tls else "http"
        url = f"{scheme}://{endpoint.name}{endpoint.base.decode()}{head.target.decode('latin-1')}"
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in head.headers if k.lower() not in _NOT_PASSED]
        limit = aiohttp.ClientTimeout(total=BROADCAST_SECONDS, sock_connect=1.0)
        try:
            async with self._session().request(
                head.method.decode(), url, data=body or None, headers=headers, timeout=limit
            ) as answer:
                text = await answer.read()
                return endpoint.name, answer.status, _readable(text)
        except (aiohttp.ClientError, TimeoutError) as error:
            return endpoint.name, 502, f"{type(error).__name__}: {error}"


def _readable(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.decode("utf-8", "replace")
