"""Every test here runs on uvloop and on asyncio's own loop, and ends with nothing unsettled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.router.dataplane.stage import Replica, Stage, Wire


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A data plane with default limits."""
    opened = await Stage().open()
    yield opened
    await opened.close()


@pytest.fixture
async def empty_stage() -> AsyncIterator[Stage]:
    """A stage that the test opens itself, with limits or certificates of its own."""
    made = Stage()
    yield made
    await made.close()


@pytest.fixture
async def replica(stage: Stage) -> Replica:
    return await stage.replica()


@pytest.fixture
async def client(stage: Stage) -> Wire:
    return await stage.client()
