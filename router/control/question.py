"""Asks a running router's control port to explain a request."""

from __future__ import annotations

from typing import Any

import aiohttp

from kvroute.router.errors import KvrouteError


class Unanswered(KvrouteError):
    """The control port gave no explanation; the message says what to do."""


async def ask(control: str, path: str | None, body: bytes) -> dict[str, Any]:
    """What `POST /explain` answers for this body.

    Raises:
        Unanswered: nothing listens there, or it refused.
    """
    url = f"{control.rstrip('/')}/explain"
    parameters = {"path": path} if path else {}
    limit = aiohttp.ClientTimeout(total=10.0)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(url, data=body, params=parameters) as answer,
        ):
            told = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unanswered(f"no answer from {url}: {error}; name the router's control port with --control") from error
    if not isinstance(told, dict) or answer.status != 200:
        message = told.get("error", {}).get("message") if isinstance(told, dict) else None
        raise Unanswered(message or f"{url} answered {answer.status}")
    return told
