"""Sampling the event loop's lag."""

from __future__ import annotations

import asyncio
import time

from kvroute.router.control.loop_lag import LoopLag


async def test_a_blocked_loop_shows() -> None:
    """Work that holds the loop for 50 ms is seen as that lag."""
    seen: asyncio.Queue[float] = asyncio.Queue()
    lag = LoopLag(seen.put_nowait, interval=0.001)
    lag.start()
    assert await seen.get() >= 0.0
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end:
        pass
    assert await seen.get() >= 0.045
    lag.close()
    lag.close()
