"""Three workers on one port, as clients and operators meet them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.workers.port import ReservedPort
from tests.router.knowledge.sharing.servers import server
from tests.router.running import engines
from tests.router.workers.several import Several, alive, several

pytestmark = pytest.mark.asyncio(loop_scope="module")

log = logging.getLogger(__name__)

WORKERS = ("0", "1", "2")


class Stage:
    """Two engines behind three workers."""

    def __init__(self, router: Several, pair: list[StandInEngine]) -> None:
        self.router = router
        self.pair = pair

    @property
    def names(self) -> list[str]:
        """The replicas' names."""
        return [f"127.0.0.1:{engine.port}" for engine in self.pair]

    async def ask(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        """One request over a connection of its own, which any worker may get."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.router.url + path, json=body or None) as answer,
        ):
            return answer.status, await answer.json()

    async def complete(self, count: int) -> list[int]:
        """Statuses of as many completions, each over a connection of its own."""
        body = {"model": "mock", "prompt": "x", "max_tokens": 1}
        return [status for status, _ in [await self.ask("POST", "/v1/completions", **body) for _ in range(count)]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    with server() as redis:
        async with (
            engines(2, decode_rate=40.0) as pair,
            several(
                "--backend", pair[0].url, "--backend", pair[1].url, "--log-format", "json", redis=redis.url
            ) as router,
        ):
            yield Stage(router, pair)


async def test_connections_are_spread_over_all(stage: Stage) -> None:
    """No worker is without any of 200, and all together have them all."""
    before = await stage.router.metrics()
    async with AsyncExitStack() as stack:
        for _ in range(200):
            session = await stack.enter_async_context(aiohttp.ClientSession())
            answer = await stack.enter_async_context(session.get(f"{stage.router.url}/health"))
            assert answer.status == 200
    after = await stage.router.metrics()
    got = [after["kvroute_connections_total", i] - before["kvroute_connections_total", i] for i in WORKERS]
    assert sum(got) == 200
    log.info("connections per worker: %s", got)
    assert min(got) >= 20, got  # 67 on average; fewer than 20 for one comes once in 10^13 times


async def test_both_ports_show_all_workers(stage: Stage) -> None:
    """Prometheus may scrape the clients' port too; memory is told of each process."""
    for base in (stage.router.control, stage.router.url):
        page = await stage.router.metrics(base)
        for worker in WORKERS:
            assert page["kvroute_worker_up", worker] == page["kvroute_info", worker] == 1
        assert all(page["process_resident_memory_bytes", worker] > 1e7 for worker in (*WORKERS, "supervisor"))


async def test_each_log_line_says_whose_it_is(stage: Stage) -> None:
    """Workers' lines carry their number, the supervisor's none."""
    lines = [json.loads(line) for line in stage.router.log().splitlines()]
    assert {line.get("worker") for line in lines} == {None, 0, 1, 2}
    assert {line.get("worker") for line in lines if line["logger"] == "kvroute.router.server"} == {0, 1, 2}


async def test_the_control_plane_explains(stage: Stage) -> None:
    """What one worker knows, dashboard included."""
    async with aiohttp.ClientSession(stage.router.control) as session:
        async with session.post("/explain", data=b'{"model": "mock", "prompt": "x"}') as answer:
            assert (await answer.json())["chosen"] in stage.names
        async with session.get("/") as answer:
            assert answer.content_type == "text/html"
        async with session.get("/ready") as answer:
            assert answer.status == 200


async def test_a_stored_response_is_found_through_any_worker(stage: Stage) -> None:
    """A follow-up goes to the replica that has it, whichever worker the connection reached."""
    body = {"model": "mock", "input": "hello", "max_output_tokens": 1}
    made = [await stage.ask("POST", "/v1/responses", **body) for _ in range(4)]
    found = [await stage.ask("GET", f"/v1/responses/{told['id']}") for _, told in made for _ in range(6)]
    assert [status for status, _ in found] == [200] * 24


async def test_an_adapter_loaded_through_one_worker_is_served_by_all(stage: Stage) -> None:
    """They look anew at what the engines serve, and need not wait for their next look."""
    for engine in stage.pair:
        engine.service.options = msgspec.structs.replace(engine.service.options, loras=("law",))
    # The stand-ins have no such path. What counts is that the worker was asked.
    await stage.ask("POST", "/v1/load_lora_adapter", lora_name="law", lora_path="/law")
    async with asyncio.timeout(10.0):
        while not all([await _lists(stage, "law") for _ in range(12)]):  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.05)
    body = {"model": "law", "prompt": "x", "max_tokens": 1}
    assert [(await stage.ask("POST", "/v1/completions", **body))[0] for _ in range(12)] == [200] * 12


async def _lists(stage: Stage, model: str) -> bool:
    _, told = await stage.ask("GET", "/v1/models")
    return model in [entry["id"] for entry in told["data"]]


async def test_draining_reaches_all_workers_and_those_that_come_later(stage: Stage) -> None:
    """A worker that is killed comes back, knows what is drained, and the others go on without an error meanwhile."""
    name, (one, _) = stage.names[0], stage.pair
    async with aiohttp.ClientSession(stage.router.control) as session:
        async with session.post(f"/replicas/{name}/drain") as answer:
            assert (await answer.json())["state"] == "draining"
        seen = one.requests_seen
        victim = stage.router.workers()[1]
        os.kill(victim, signal.SIGKILL)
        await stage.router.until(lambda: "was ended by SIGKILL" in stage.router.log())
        while stage.router.workers()[1] == victim:
            assert set(await stage.complete(5)) == {200}
        assert set(await stage.complete(30)) == {200}
        assert one.requests_seen == seen
        page = await stage.router.metrics()
        assert [page["kvroute_worker_restarts_total", worker] for worker in WORKERS] == [0, 1, 0]
        assert page["kvroute_worker_up", "1"] == 1
        async with session.post(f"/replicas/{name}/undrain") as answer:
            assert (await answer.json())["state"] == "ready"
    assert set(await stage.complete(30)) == {200}
    assert one.requests_seen > seen


async def test_a_worker_may_be_told_to_end(stage: Stage) -> None:
    """It drains, and its place is filled again: code and memory are renewed one process at a time."""
    old = stage.router.workers()[2]
    os.kill(old, signal.SIGTERM)
    await stage.router.until(lambda: stage.router.workers()[2] != old)
    assert "worker 2 ended with status 0" in stage.router.log()
    assert set(await stage.complete(10)) == {200}


async def test_sigterm_lets_streams_end(stage: Stage) -> None:
    """All workers finish what is under way while another router may take the port; then all is over, with status 0.

    The stage is gone with it.
    """
    body = {"model": "mock", "prompt": "x", "max_tokens": 40, "stream": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{stage.router.url}/v1/completions", json=body) as answer,
    ):
        await answer.content.readline()
        stage.router.process.terminate()
        await stage.router.until(lambda: _can_be_taken(stage.router.port))
        assert stage.router.process.returncode is None
        assert (await answer.text()).endswith("data: [DONE]\n\n")
    assert await stage.router.ended() == 0
    assert not any(alive(pid) for pid in stage.router.workers().values())


def _can_be_taken(port: int) -> bool:
    try:
        ReservedPort("127.0.0.1", port).close()
    except OSError:
        return False
    return True
