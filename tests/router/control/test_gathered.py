"""The control plane of several workers, in front of two that are real HTTP servers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kvroute.router.control.admin import ControlServer, make_admin
from kvroute.router.control.contract import CanaryStatus, EventStatus, ReplicaStatus
from kvroute.router.control.gathered import Gathered, GatheredPage, merged
from kvroute.router.control.metrics import Metrics
from tests.router.control.test_admin import FakeRouter


class Busy(FakeRouter):
    """A router with requests under way at each of its replicas."""

    in_flight = 0
    canary = CanaryStatus()
    events: EventStatus | None = None

    def replicas(self) -> list[ReplicaStatus]:
        fields = {"in_flight": self.in_flight, "canary": self.canary, "events": self.events}
        return [msgspec.structs.replace(replica, **fields) for replica in super().replicas()]


class TwoWorkers:
    """Implements Workers; worker 2 is down."""

    def __init__(self, addresses: dict[int, str | None]) -> None:
        self.addresses = addresses
        self.restarts = {0: 0, 1: 3, 2: 1}
        self.told: list[tuple[str, bool]] = []

    def drained(self, name: str, drained: bool) -> None:
        self.told.append((name, drained))


class Stage:
    """Two workers, and the control plane in front of them."""

    def __init__(self) -> None:
        self.routers = [Busy(), Busy()]
        self.metrics = [Metrics("0.1", "latency"), Metrics("0.1", "latency")]
        pairs = zip(self.routers, self.metrics, strict=True)
        self.servers = [ControlServer(make_admin(router, metrics)) for router, metrics in pairs]
        self.workers = TwoWorkers({2: None})
        self.front = ControlServer(Gathered(self.workers).application())
        self.url = ""

    async def start(self) -> None:
        for i, server in enumerate(self.servers):
            self.workers.addresses[i] = f"http://127.0.0.1:{await server.start()}"
        self.workers.addresses = dict(sorted(self.workers.addresses.items()))
        self.url = f"http://127.0.0.1:{await self.front.start()}"

    async def close(self) -> None:
        for server in (self.front, *self.servers):
            await server.close()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def session(stage: Stage) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(stage.url) as opened:
        yield opened


def samples(page: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample."""
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def value(page: str, wanted: str, **labels: str) -> float:
    """The one sample with these labels."""
    (found,) = [number for name, own, number in samples(page) if name == wanted and labels.items() <= own.items()]
    return found


def test_merged_pages_keep_every_sample_and_one_header() -> None:
    """Whatever the label values hold; a family that only one page has stays."""
    pages = {}
    for i in range(2):
        registry = CollectorRegistry()
        Counter("a", "Plain {braces} here.", registry=registry).inc(i + 1)
        odd = Gauge("b", "Labelled.", ["text"], registry=registry)
        odd.labels('sp ace } { "quoted" \\ , \n end').set(i)
        if i:
            Gauge("c", "Only here.", registry=registry).set(7)
        pages[str(i)] = generate_latest(registry).decode()
    page = merged(pages)
    together = {(name, *sorted(labels.items())): number for name, labels, number in samples(page)}
    for worker, alone in pages.items():
        for name, labels, number in samples(alone):
            assert together.pop((name, *sorted({**labels, "worker": worker}.items()))) == number
    assert not together
    headers = re.findall(r"^# TYPE (\w+)", page, re.MULTILINE)
    assert len(headers) == len(set(headers))


async def test_one_page_has_all_workers(stage: Stage, session: aiohttp.ClientSession) -> None:
    """Each sample says whose it is, memory too; a worker that is down is told as down and has no samples."""
    stage.metrics[1].request("m", "a:1").completed += 2
    async with session.get("/metrics") as answer:
        page = await answer.text()
    assert value(page, "kvroute_requests_total", worker="1", outcome="completed") == 2
    assert [value(page, "kvroute_worker_up", worker=worker) for worker in "012"] == [1, 1, 0]
    assert value(page, "kvroute_worker_restarts_total", worker="1") == 3
    for worker in ("0", "1", "supervisor"):
        assert value(page, "process_resident_memory_bytes", worker=worker) > 0
    assert {labels["worker"] for name, labels, _ in samples(page) if name == "kvroute_info"} == {"0", "1"}


async def test_a_worker_that_does_not_answer_is_down(stage: Stage, session: aiohttp.ClientSession) -> None:
    """The others' page is there all the same."""
    await stage.servers[0].close()
    async with session.get("/metrics") as answer:
        page = await answer.text()
    assert [value(page, "kvroute_worker_up", worker=worker) for worker in "012"] == [0, 1, 0]
    assert value(page, "kvroute_info", worker="1") == 1


async def test_pages_come_from_the_first_that_lives(stage: Stage, session: aiohttp.ClientSession) -> None:
    """Dashboard, readiness and explanations; their headers and errors are the worker's own."""
    async with session.get("/") as answer:
        assert answer.content_type == "text/html"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    async with session.post("/explain?path=/x", data=b'{"prompt": "x"}') as answer:
        assert (await answer.json())["chosen"] == "a:1"
    async with session.post("/explain", data=b"") as answer:
        assert answer.status == 400
    async with session.get("/nothing") as answer:
        assert answer.status == 404
    assert [len(router.explained) for router in stage.routers] == [2, 0]
    await stage.servers[0].close()
    async with session.get("/ready") as answer:
        assert await answer.json() == {"ready": True}
    async with session.post("/explain?path=/x", data=b'{"prompt": "x"}') as answer:
        assert answer.status == 200
    assert len(stage.routers[1].explained) == 1
    await stage.servers[1].close()
    async with session.get("/ready") as answer:
        assert answer.status == 503


async def test_replicas_have_the_requests_of_all_workers(stage: Stage, session: aiohttp.ClientSession) -> None:
    """Everything else is the first worker's view; a replica that only another one knows is not in it."""
    stage.routers[0].states = {"a:1": "ready"}
    stage.routers[1].states = {"a:1": "draining", "b:2": "ready"}
    for i, router in enumerate(stage.routers):
        router.in_flight = i + 2
    async with session.get("/replicas") as answer:
        told = await answer.json()
    assert told["policy"] == "latency"
    assert [(replica["name"], replica["state"], replica["in_flight"]) for replica in told["replicas"]] == [
        ("a:1", "ready", 5)
    ]


async def test_what_one_worker_knows_better_is_shown(stage: Stage, session: aiohttp.ClientSession) -> None:
    """Any worker's alarm, and the KV events as the worker that follows them sees them."""
    stage.routers[0].events = EventStatus(address="tcp://a:1", foreign=True)
    stage.routers[1].events = EventStatus(address="tcp://a:1", foreign=False, connected=True, batches=7)
    stage.routers[0].canary = CanaryStatus(disagreement=0.2)
    stage.routers[1].canary = CanaryStatus(disagreement=0.15, alarm=True, hint="the template")
    async with session.get("/replicas") as answer:
        told = (await answer.json())["replicas"][0]
    assert told["events"]["batches"] == 7
    assert told["canary"] == {"disagreement": 0.15, "alarm": True, "hint": "the template"}


async def test_changes_reach_all_and_are_remembered(stage: Stage, session: aiohttp.ClientSession) -> None:
    """For workers that start later; odd names go through as they are."""
    async with session.post("/replicas/%5B::1%5D:2%2F1/drain") as answer:
        assert await answer.json() == {"name": "[::1]:2/1", "state": "draining"}
    assert [router.states["[::1]:2/1"] for router in stage.routers] == ["draining", "draining"]
    async with session.post("/replicas/[::1]:2/1/undrain") as answer:
        assert answer.status == 200
    assert stage.workers.told == [("[::1]:2/1", True), ("[::1]:2/1", False)]
    async with session.post("/replicas/nobody/drain") as answer:
        assert answer.status == 404
    assert len(stage.workers.told) == 2


async def test_the_worst_answer_to_a_change_is_told(stage: Stage, session: aiohttp.ClientSession) -> None:
    """A change that one worker refused has not been made everywhere; those to come shall make it."""
    del stage.routers[0].states["a:1"]
    async with session.post("/replicas/a:1/drain") as answer:
        assert answer.status == 404
    assert stage.routers[1].states["a:1"] == "draining"
    assert stage.workers.told == [("a:1", True)]


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example:9000"}])
async def test_other_sites_pages_have_no_say(
    stage: Stage, session: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    """As at a single router."""
    async with session.post("/replicas/a:1/drain", headers=headers) as answer:
        assert answer.status == 403
    assert stage.routers[0].states["a:1"] == "ready"


async def test_the_dashboard_may_drain(stage: Stage, session: aiohttp.ClientSession) -> None:
    """Its origin is the supervisor's, not the worker's."""
    headers = {"Origin": stage.url, "Sec-Fetch-Site": "same-origin"}
    async with session.post("/replicas/a:1/drain", headers=headers) as answer:
        assert answer.status == 200


async def test_the_clients_port_shows_all_workers_or_its_own(stage: Stage) -> None:
    """Without the supervisor a worker still has something to tell."""
    page = GatheredPage(stage.url, stage.metrics[0])
    assert b'kvroute_worker_up{worker="1"} 1' in await page.page()
    await stage.front.close()
    assert b'kvroute_info{version="0.1",policy="latency"} 1' in await page.page()


def test_a_large_fleets_pages_are_merged_quickly() -> None:
    """Three pages of 300 replicas with all their histograms in well under a scrape's time."""
    metrics = Metrics("0.1", "latency")
    metrics.replicas = lambda: [ReplicaStatus(name=f"r{i}:8000", state="ready") for i in range(300)]
    for i in range(300):
        metrics.request("m", f"r{i}:8000").completed += 1
    page = asyncio.run(metrics.page()).decode()
    began = time.process_time()
    together = merged({str(i): page for i in range(3)})
    assert time.process_time() - began < 2.0
    assert together.count("\nkvroute_requests_total{") == 3 * 900
