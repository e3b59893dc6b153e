"""Sending what is queued: a while after the first of it, until there is none, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.store import StoreDown


async def keep_flushing(
    news: asyncio.Event, seconds: float, flush: Callable[[], Awaitable[object]], health: Health, work: str
) -> None:
    """Until cancelled: `seconds` after `news`, call `flush` until it has sent nothing.

    While the store does not serve it waits as `health` says, under the name of `work`, and tries again.
    """
    while True:
        await news.wait()
        news.clear()
        await asyncio.sleep(seconds)
        try:
            while await flush():
                pass
        except StoreDown as error:
            news.set()
            await asyncio.sleep(health.failed(work, error))
