"""Tasks that run until cancelled."""

from __future__ import annotations

import asyncio
import logging

import pytest

from kvroute.router.fleetwatch.background import run_in_background


async def test_a_crash_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the task's name and the traceback; a cancelled task is silent."""

    async def crash() -> None:
        raise ZeroDivisionError

    async def wait() -> None:
        await asyncio.Event().wait()

    waiting = run_in_background(wait(), "waiter")
    crashed = run_in_background(crash(), "scrape h:1")
    with caplog.at_level(logging.CRITICAL):
        await asyncio.wait([crashed])
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(0)
    (record,) = caplog.records
    assert "scrape h:1 ended unexpectedly" in record.getMessage()
    assert record.exc_info is not None
