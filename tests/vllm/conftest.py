"""Two real replicas for the whole session, and routers in front of them as each test wants them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.vllm.engine import Engine
from tests.vllm.environment import Environment, ensure
from tests.vllm.processes import Process
from tests.vllm.proxy import Router

StartRouter: TypeAlias = Callable[..., Router]


@pytest.fixture(scope="session")
def environment() -> Environment:
    """vLLM and a model, installed and made where they are missing."""
    return ensure()


@pytest.fixture(scope="session")
def started(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Engine]]:
    """Two replicas: one tells cached tokens in its replies, the other has vLLM's stock flags."""
    logs = tmp_path_factory.mktemp("engines")
    telling = Engine("telling", environment, logs / "telling.log", ["--enable-prompt-tokens-details"])
    stock = Engine("stock", environment, logs / "stock.log")
    try:
        for engine in (telling, stock):
            engine.start()
        yield [telling, stock]
    finally:
        for engine in (telling, stock):
            engine.stop()


@pytest.fixture
def engines(started: list[Engine]) -> list[Engine]:
    """Both replicas, alive and idle, whatever an earlier test did to them."""
    for engine in started:
        if not engine.alive:
            engine.start()
    for engine in started:
        engine.wait_until_ready()
        engine.wait_until(running=False)
    return started


@pytest.fixture
def start_router(engines: list[Engine], tmp_path: Path) -> Iterator[StartRouter]:
    """Starts `kvroute serve`; afterwards each router must still be alive, idle, and end with status 0 when told to."""
    routers: list[Router] = []

    def start(*backends: Process, policy: str = "latency") -> Router:
        router = Router(backends or engines, policy, tmp_path / f"kvroute-{len(routers)}.log")
        routers.append(router)
        router.start()
        router.wait_until_ready()
        return router

    try:
        yield start
        for router in routers:
            assert router.alive, "the router ended by itself"
            assert router.in_flight == 0, "the router still counts requests in flight"
    finally:
        statuses = [router.stop() for router in routers]
        for router in routers:
            sys.stdout.write(f"--- {router.name}\n{router.log}\n")
    assert statuses == [0] * len(routers)


@pytest.fixture
def router(start_router: StartRouter) -> Router:
    """The default policy in front of both replicas."""
    return start_router()
