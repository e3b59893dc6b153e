"""The admin API over a real socket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import aiohttp
import msgspec
import pytest

from kvroute.router.control.admin import ControlServer, make_admin
from kvroute.router.control.contract import (
    CanaryStatus,
    CandidateCost,
    EventStatus,
    Explanation,
    ReplicaStatus,
    SharingStatus,
)
from kvroute.router.control.metrics import Metrics
from kvroute.router.errors import ClientError, NoReplica


class FakeRouter:
    """A router with two replicas."""

    version = "0.1"
    policy = "latency"

    def __init__(self) -> None:
        self.states = {"a:1": "ready", "[::1]:2/1": "ejected"}
        self.explained: list[tuple[bytes, bytes]] = []
        self.shared: SharingStatus | None = None

    def ready(self) -> bool:
        return "ready" in self.states.values()

    def replicas(self) -> list[ReplicaStatus]:
        return [ReplicaStatus(name=name, state=state) for name, state in self.states.items()]

    def sharing(self) -> SharingStatus | None:
        return self.shared

    def drain(self, name: str) -> None:
        self.states[name]
        self.states[name] = "draining"

    def undrain(self, name: str) -> None:
        self.states[name]
        self.states[name] = "ready"

    async def explain(self, path: bytes, body: bytes) -> Explanation:
        self.explained.append((path, body))
        if not body:
            raise ClientError(400, "the body is not valid JSON")
        if b"stranger" in body:
            raise NoReplica(404, "The model `stranger` does not exist.")
        candidate = CandidateCost(name="a:1", chosen=True, total_seconds=float("inf"), predicted_ttft=0.1, hit_tokens=3)
        return Explanation(policy="latency", model="m", prompt_tokens=9, chosen="a:1", candidates=(candidate,))

    def configuration(self) -> dict[str, Any]:
        return {"policy": "latency"}


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
async def session(router: FakeRouter) -> AsyncIterator[aiohttp.ClientSession]:
    server = ControlServer(make_admin(router, Metrics("0.1", "latency")))
    port = await server.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as opened:
        yield opened
    await server.close()


async def test_replicas_are_listed(session: aiohttp.ClientSession) -> None:
    """Every field of ReplicaStatus is in the JSON."""
    async with session.get("/replicas") as answer:
        listed = await answer.json()
    assert (listed["version"], listed["policy"]) == ("0.1", "latency")
    assert [replica["name"] for replica in listed["replicas"]] == ["a:1", "[::1]:2/1"]
    assert set(listed["replicas"][0]) == set(ReplicaStatus.__struct_fields__)


async def test_replicas_tell_how_knowledge_is_shared(session: aiohttp.ClientSession, router: FakeRouter) -> None:
    """Null for a router that is alone; else the state of the store and the other routers."""
    async with session.get("/replicas") as answer:
        assert (await answer.json())["sharing"] is None
    router.shared = SharingStatus(
        state="slow", state_seconds=3.0, routers=2, foreign=5, lag_seconds=0.1, round_trip_seconds=0.06, ingesting=1
    )
    async with session.get("/replicas") as answer:
        assert (await answer.json())["sharing"] == msgspec.to_builtins(router.shared)


def test_the_dashboard_reads_fields_that_exist() -> None:
    """Every field of a replica, its events, its canary and the sharing that the page's script names."""
    page = (files("kvroute.router.control") / "index.html").read_text(encoding="utf-8")
    script = page[page.index("<script>") :]
    for variable, shape in (("r", ReplicaStatus), ("e", EventStatus), ("canary", CanaryStatus), ("s", SharingStatus)):
        named = set(re.findall(rf"\b{variable}\.(\w+)", script))
        assert named
        assert named <= set(shape.__struct_fields__), variable


async def test_drain_and_undrain(session: aiohttp.ClientSession, router: FakeRouter) -> None:
    """Names may hold brackets, colons and slashes; the new state is the answer."""
    async with session.post("/replicas/%5B::1%5D:2%2F1/drain") as answer:
        assert await answer.json() == {"name": "[::1]:2/1", "state": "draining"}
    async with session.post("/replicas/[::1]:2/1/undrain") as answer:
        assert await answer.json() == {"name": "[::1]:2/1", "state": "ready"}
    async with session.post("/replicas/nobody/drain") as answer:
        assert answer.status == 404
        assert "nobody" in (await answer.json())["error"]["message"]
    assert router.states["a:1"] == "ready"


@pytest.mark.parametrize(
    ("body", "query", "path"),
    [
        (b'{"messages": []}', "", b"/v1/chat/completions"),
        (b'{"prompt": "x"}', "", b"/v1/completions"),
        (b'{"input": "x"}', "", b"/v1/responses"),
        (b'{"input": "x"}', "?path=/v1/embeddings", b"/v1/embeddings"),
        (b"not json", "", b"/v1/chat/completions"),
    ],
)
async def test_explain_guesses_the_path(
    session: aiohttp.ClientSession, router: FakeRouter, body: bytes, query: str, path: bytes
) -> None:
    """By the body's fields, unless the path is given; the body is passed on as it came."""
    async with session.post("/explain" + query, data=body) as answer:
        explained = msgspec.json.decode(await answer.read(), type=Explanation)
    assert router.explained == [(path, body)]
    assert explained.candidates[0].total_seconds is None


async def test_explain_answers_errors(session: aiohttp.ClientSession) -> None:
    """A wrong body and an unknown model keep their status and words."""
    async with session.post("/explain", data=b"") as answer:
        assert (answer.status, (await answer.json())["error"]["message"]) == (400, "the body is not valid JSON")
    async with session.post("/explain", data=b'{"model": "stranger"}') as answer:
        assert answer.status == 404


async def test_the_other_pages(session: aiohttp.ClientSession, router: FakeRouter) -> None:
    """Health, readiness, version, configuration, metrics and the dashboard."""
    async with session.get("/health") as answer:
        assert answer.status == 200
    async with session.get("/ready") as answer:
        assert answer.status == 200
    async with session.get("/version") as answer:
        assert await answer.json() == {"version": "0.1", "policy": "latency"}
    async with session.get("/config") as answer:
        assert await answer.json() == {"policy": "latency"}
    async with session.get("/metrics") as answer:
        assert answer.content_type == "text/plain"
        assert "kvroute_info" in await answer.text()
    async with session.get("/") as answer:
        assert answer.content_type == "text/html"
        page = await answer.text()
    assert "http://" not in page
    assert "https://" not in page
    async with session.get("/nothing") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == 404
    router.states.clear()
    async with session.get("/ready") as answer:
        assert answer.status == 503


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example:9000"},
    ],
)
async def test_other_sites_pages_cannot_drain(
    session: aiohttp.ClientSession, router: FakeRouter, headers: dict[str, str]
) -> None:
    """A page in the operator's browser has no say, not even with a name that resolves to 127.0.0.1."""
    async with session.post("/replicas/a:1/drain", headers=headers) as answer:
        assert answer.status == 403
    assert router.states["a:1"] == "ready"


async def test_the_dashboard_may_drain(session: aiohttp.ClientSession, router: FakeRouter) -> None:
    """Its own origin is the control port's."""
    async with session.get("/health") as answer:
        own = f"http://{answer.url.host}:{answer.url.port}"
    async with session.post("/replicas/a:1/drain", headers={"Origin": own, "Sec-Fetch-Site": "same-origin"}) as answer:
        assert answer.status == 200
    assert router.states["a:1"] == "draining"


async def test_closing_does_not_wait_for_idle_clients(router: FakeRouter) -> None:
    """A dashboard left open does not hold up the end."""
    server = ControlServer(make_admin(router, Metrics()))
    port = await server.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as opened:
        async with opened.get("/health") as answer:
            await answer.read()
        async with asyncio.timeout(5.0):
            await server.close()
