"""Engines and clients that end with their test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kvroute.router.fleetwatch.engine_client import EngineClient
from tests.router.fleetwatch.fakes import FakeEngine, Journal


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    fake = FakeEngine()
    await fake.start()
    yield fake
    if fake.hang is not None:
        fake.hang.set()
    await fake.stop()


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    opened = EngineClient()
    yield opened
    await opened.close()


@pytest.fixture
def journal() -> Journal:
    return Journal()
