"""A Redis server for all tests here, and a fresh store for each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import pytest

from kvroute.router.knowledge.sharing.memory_store import MemoryStore
from kvroute.router.knowledge.sharing.place import place
from kvroute.router.knowledge.sharing.redis_store import RedisStore
from kvroute.router.knowledge.sharing.store import Store
from tests.router.knowledge.sharing.servers import Server, cluster, server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """One server that no test may harm."""
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[list[Server]]:
    """A cluster that no test may harm: it takes two seconds to come up."""
    with cluster() as nodes:
        yield nodes


@pytest.fixture
async def redis_store(redis_server: Server) -> AsyncIterator[RedisStore]:
    """An empty store on it."""
    redis_server.tell("FLUSHALL")
    store = RedisStore(place(redis_server.url), limit=5.0)
    yield store
    await store.close()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Each kind of store, empty."""
    if request.param == "memory":
        yield MemoryStore(time.time)
        return
    running: Server = request.getfixturevalue("redis_server")
    running.tell("FLUSHALL")
    opened = RedisStore(place(running.url), limit=5.0)
    yield opened
    await opened.close()
