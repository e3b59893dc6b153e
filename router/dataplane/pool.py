"""Connections to one endpoint: idle ones kept for reuse, new ones opened, its host name looked up again."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from time import monotonic

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.dataplane.counters import Counters
from kvroute.router.dataplane.limits import Limits
from kvroute.router.dataplane.upstream import Upstream


class Pool:
    """The connections to one endpoint. The youngest idle one is reused first."""

    def __init__(self, endpoint: Endpoint, limits: Limits, context: ssl.SSLContext | None, counters: Counters) -> None:
        self.endpoint = endpoint
        self.limits = limits
        self._context = context if endpoint.tls else None
        self._counters = counters
        self._idle: list[Upstream] = []
        self._open: set[Upstream] = set()
        self._addresses: list[str] = [endpoint.host] if _is_address(endpoint.host) else []
        self._fixed = bool(self._addresses)
        self._resolved_at = 0.0
        self._lookup: asyncio.Task[None] | None = None
        self._pending = 0
        self._used_at = monotonic()

    @property
    def idle(self) -> int:
        """Connections that wait for use."""
        return len(self._idle)

    @property
    def unused_since(self) -> float | None:
        """When it was last of use (monotonic seconds), or None while it has connections or opens one."""
        return None if self._open or self._pending else self._used_at

    def take(self) -> Upstream | None:
        """An idle connection, if there is one."""
        while self._idle:
            upstream = self._idle.pop()
            if not upstream.transport.is_closing():
                upstream.used = True
                self._counters.upstream_reused += 1
                return upstream
        return None

    def give(self, upstream: Upstream, now: float) -> None:
        """Take back a connection whose exchange is complete."""
        upstream.asker = None
        transport = upstream.transport
        if (
            transport.is_closing()
            or transport.get_write_buffer_size()
            or len(self._idle) >= self.limits.pool_connections
            or (upstream.address not in self._addresses and not self._fixed)
        ):
            transport.abort()
            return
        upstream.idle_since = now
        self._idle.append(upstream)

    async def connect(self) -> Upstream:
        """Open a connection, trying each address of the host within `connect_seconds` in all.

        Raises:
            OSError: none could be opened in time, or TLS failed.
        """
        self._pending += 1
        try:
            async with asyncio.timeout(self.limits.connect_seconds):
                if not self._fixed and monotonic() - self._resolved_at > self.limits.resolve_seconds:
                    await self._resolve()
                return await self._connect_to_any()
        finally:
            self._pending -= 1
            self._used_at = monotonic()

    async def _connect_to_any(self) -> Upstream:
        loop = asyncio.get_running_loop()
        addresses = list(self._addresses)
        share = self.limits.connect_seconds / max(1, len(addresses))
        failure: OSError = OSError(f"no address for {self.endpoint.host}")
        for address in addresses:
            try:
                async with asyncio.timeout(share):
                    _, upstream = await loop.create_connection(
                        lambda: Upstream(self),
                        address,
                        self.endpoint.port,
                        ssl=self._context,
                        server_hostname=self.endpoint.host if self._context else None,
                    )
            except OSError as error:
                failure = error
                continue
            upstream.address = address
            self._counters.upstream_connects += 1
            return upstream
        raise failure

    async def _resolve(self) -> None:
        """Look the host up. What was known stays when the look-up fails; idle connections to old addresses go."""
        try:
            found = await look_up(self.endpoint.host, self.endpoint.port)
        except OSError:
            if not self._addresses:
                raise
            return
        self._resolved_at = monotonic()
        self._addresses = list(dict.fromkeys(found))
        for upstream in self._idle:
            if upstream.address not in self._addresses:
                upstream.transport.abort()

    def opened(self, upstream: Upstream) -> None:
        """Called by a connection when it stands."""
        self._open.add(upstream)

    def lost(self, upstream: Upstream) -> None:
        """Called by a connection when it is gone."""
        self._open.discard(upstream)
        if upstream.asker is None and upstream in self._idle:
            self._idle.remove(upstream)
        self._used_at = monotonic()

    def sweep(self, now: float) -> None:
        """Close what has been idle too long; look the host up again when that is due."""
        for upstream in self._idle:
            if now - upstream.idle_since > self.limits.pool_idle_seconds:
                upstream.transport.abort()
        due = not self._fixed and self._addresses and now - self._resolved_at > self.limits.resolve_seconds
        if due and self._open and (self._lookup is None or self._lookup.done()):
            self._lookup = asyncio.get_running_loop().create_task(self._resolve())

    def close(self) -> None:
        """Abort every connection."""
        if self._lookup is not None:
            self._lookup.cancel()
        for upstream in list(self._open):
            upstream.transport.abort()


async def look_up(host: str, port: int) -> list[str]:
    """The addresses of a host.

    Raises:
        OSError: it has none, or the name service does not answer.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
