"""Asks engines small questions over HTTP, with one pooled client session, a size limit, timeouts and the API key."""

from __future__ import annotations

import errno
import os
import ssl

import aiohttp
from yarl import URL

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.errors import UpstreamError

MAX_ANSWER_BYTES = 16 * 1024 * 1024


class Unreachable(UpstreamError):
    """No usable answer. `refused`: the connection could not be made at all, so nobody listens there."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class EngineClient:
    """GET requests to engines. Make it anywhere; the session opens with the first request and ends with `close`."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        connect_timeout: float = 1.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`api_key` is sent as a bearer token; `tls` verifies https engines (None: the system's authorities)."""
        # Compressing 60 KB of metrics each second would cost the engine more than sending them.
        self._headers = {
            "Accept": "application/json, text/plain;version=0.0.4, */*;q=0.1",
            "Accept-Encoding": "identity",
        }
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._connect_timeout = connect_timeout
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def get(self, endpoint: Endpoint, path: str, timeout: float) -> tuple[int, bytes]:  # noqa: ASYNC109
        """Status and body of `GET path`, all within `timeout` seconds.

        Raises:
            Unreachable: no connection, no HTTP, too slow or too large.
        """
        url = URL(
            f"{'https' if endpoint.tls else 'http'}://{endpoint.name}{endpoint.base.decode()}{path}", encoded=True
        )
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=self._connect_timeout)
        try:
            async with self._open().get(url, timeout=limits, ssl=self._tls or True, allow_redirects=False) as answer:
                return answer.status, await _read(answer)
        except aiohttp.ClientConnectorError as error:
            raise _no_connection(error) from error
        except TimeoutError as error:
            raise Unreachable(f"no answer to GET {path} within {timeout:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"GET {path} failed: {error or type(error).__name__}") from error

    async def close(self) -> None:
        """End the session and its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=self._headers, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


def _no_connection(error: aiohttp.ClientConnectorError) -> Unreachable:
    """Only the host's own no is a refusal; a failed name look-up or certificate tells nothing of the engine."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
        return Unreachable(f"cannot connect: {os.strerror(cause.errno).lower()}", refused=True)
    return Unreachable(f"cannot connect: {error}")


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            answer.close()
            raise ValueError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)
