"""The data plane as a whole: listens, shares pools and limits, enforces times, drains."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import ssl
from time import monotonic

from kvroute.router.dataplane.client import Client
from kvroute.router.dataplane.contract import Endpoint, Handler
from kvroute.router.dataplane.counters import Counters
from kvroute.router.dataplane.limits import Limits
from kvroute.router.dataplane.pool import Pool

_POOL_KEPT_SECONDS = 60.0
"""How long a pool without connections is remembered."""


class DataPlane:
    """Listens for clients and relays what the handler wants relayed.

    `replica_ssl` is the context for endpoints with TLS; without one, the system's certificate authorities decide.
    """

    def __init__(
        self, handler: Handler, limits: Limits | None = None, replica_ssl: ssl.SSLContext | None = None
    ) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.counters = Counters()
        self.clients: set[Client] = set()
        self.scheme = "http"
        self.draining = False
        self._replica_ssl = replica_ssl
        self._pools: dict[Endpoint, Pool] = {}
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._prefix = secrets.token_hex(8)
        self._ids = itertools.count(1)

    async def start(
        self,
        host: str | None,
        port: int,
        *,
        context: ssl.SSLContext | None = None,
        reuse_port: bool = False,
        backlog: int = 2048,
    ) -> None:
        """Listen; may be called for several addresses. `context` makes it TLS.

        Raises:
            OSError: the address cannot be had.
        """
        loop = asyncio.get_running_loop()
        if context is not None:
            self.scheme = "https"
        server = await loop.create_server(
            lambda: Client(self),
            host,
            port,
            ssl=context,
            ssl_handshake_timeout=self.limits.header_seconds if context else None,
            reuse_port=reuse_port or None,
            backlog=backlog,
        )
        self._servers.append(server)
        if self._timer is None:
            self._timer = loop.call_later(self.limits.sweep_seconds, self._sweep)

    @property
    def ports(self) -> list[int]:
        """The ports that are listened on."""
        return [sock.getsockname()[1] for server in self._servers for sock in server.sockets]

    def next_id(self) -> str:
        """A request id: 64 random bits of this process, and a count."""
        return f"{self._prefix}{next(self._ids):08x}"

    def joined(self, client: Client) -> None:
        """Called by a connection when it stands."""
        self.clients.add(client)
        self.counters.connections += 1
        self.counters.open_connections += 1

    def left(self, client: Client) -> None:
        """Called by a connection when it is gone."""
        self.clients.discard(client)
        self.counters.open_connections -= 1
        if self.draining and not self.clients:
            self._empty.set()

    def pool(self, endpoint: Endpoint) -> Pool:
        """The connections to one endpoint."""
        pool = self._pools.get(endpoint)
        if pool is None:
            context = self._replica_ssl
            if endpoint.tls and context is None:
                context = self._replica_ssl = ssl.create_default_context()
            pool = self._pools[endpoint] = Pool(endpoint, self.limits, context, self.counters)
        return pool

    def _sweep(self) -> None:
        now = monotonic()
        for client in [client for client in self.clients if client.deadline < now]:
            client.expired(now)
        for endpoint, pool in list(self._pools.items()):
            pool.sweep(now)
            since = pool.unused_since
            if since is not None and now - since > _POOL_KEPT_SECONDS:
                del self._pools[endpoint]
        self._timer = asyncio.get_running_loop().call_later(self.limits.sweep_seconds, self._sweep)

    def stop_accepting(self) -> None:
        """Close the listening sockets and the idle connections; what is under way goes on, then closes."""
        self.draining = True
        for server in self._servers:
            server.close()
        for client in list(self.clients):
            if client.idle:
                client.shut()

    async def drain(self, seconds: float | None = None) -> bool:
        """Stop accepting and wait until every connection has ended. False when `seconds` were not enough."""
        self.stop_accepting()
        if not self.clients:
            return True
        try:
            async with asyncio.timeout(self.limits.drain_seconds if seconds is None else seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End at once: every connection is aborted, every exchange settled."""
        self.stop_accepting()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for client in list(self.clients):
            client.shut()
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        await asyncio.sleep(0)
