"""One control plane for several workers: their metrics on one page, changes sent to all, the rest asked of one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import aiohttp
import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from yarl import URL

from kvroute.router.control.admin import error_reply, errors, guard, json_reply
from kvroute.router.control.catalogue import Metric
from kvroute.router.control.exposition import CONTENT_TYPE, write_numbers
from kvroute.router.control.metrics import Metrics

WORKER_UP = Metric("kvroute_worker_up", "gauge", ("worker",), "1 for a worker whose metrics are on this page, else 0.")
WORKER_RESTARTS = Metric(
    "kvroute_worker_restarts_total", "counter", ("worker",), "Times a worker was started anew after it had ended."
)
GATHERED: tuple[Metric, ...] = (WORKER_UP, WORKER_RESTARTS)
"""What only the page of several workers has."""
SUPERVISOR = "supervisor"
"""`worker` of the supervisor's own process metrics."""

_ANSWER = aiohttp.ClientTimeout(total=4.0, sock_connect=1.0)
"""Longest wait for one worker."""
_GATHERED = aiohttp.ClientTimeout(total=8.0, sock_connect=1.0)
"""Longest wait for the page of all: one worker may hang, and Prometheus waits for 10 s."""
_CHANGE = re.compile(r"^/replicas/(?P<name>.+)/(?P<verb>drain|undrain)$")
_ONE_ANSWERS = frozenset({"/explain"})
"""POSTs that change nothing."""
_REQUEST_HEADERS = ("Content-Type", "Accept")
_REPLY_HEADERS = ("Content-Type", "Content-Security-Policy", "X-Frame-Options", "Allow")
_COMMENT = re.compile(r"# (?:HELP|TYPE) (\S+)")


class Workers(Protocol):
    """The workers as the control plane sees them."""

    @property
    def addresses(self) -> Mapping[int, str | None]:
        """Worker -> base URL of its own control plane, None while it does not serve."""
        ...

    @property
    def restarts(self) -> Mapping[int, int]:
        """Worker -> how often it was started anew."""
        ...

    def drained(self, name: str, drained: bool) -> None:
        """An operator drained or undrained this replica: workers that start later are to know."""
        ...


class GatheredPage:
    """The page of all workers as one of them shows it on the clients' port: asked of the supervisor."""

    def __init__(self, url: str, own: Metrics) -> None:
        """`url` is the base of the supervisor's control plane."""
        self._url = f"{url}/metrics"
        self._own = own

    async def page(self) -> bytes:
        """All workers' metrics; this worker's alone where the supervisor does not answer."""
        try:
            async with aiohttp.ClientSession(timeout=_GATHERED) as session, session.get(self._url) as answer:
                answer.raise_for_status()
                return await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return await self._own.page()


class Gathered:
    """The supervisor's control plane."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def application(self, *, max_body: int = 64 * 1024 * 1024) -> web.Application:
        """The aiohttp application. `max_body` bounds what is passed on to workers [bytes]."""
        app = web.Application(middlewares=[guard, errors], client_max_size=max_body)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/replicas", self._replicas)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        app.cleanup_ctx.append(self._with_session)
        return app

    async def _with_session(self, app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(timeout=_ANSWER) as self._session:
            yield

    async def _metrics(self, request: web.Request) -> web.Response:
        answers = await self._ask_all("GET", "/metrics")
        pages = {str(i): answer.text or "" for i, answer in answers.items() if answer.status == 200}
        up = (((str(i),), int(str(i) in pages)) for i in self._workers.addresses)
        restarts = (((str(i),), count) for i, count in self._workers.restarts.items())
        head = "".join((*write_numbers(WORKER_UP, up), *write_numbers(WORKER_RESTARTS, restarts)))
        pages[SUPERVISOR] = generate_latest(self._process).decode()
        return web.Response(body=(head + merged(pages)).encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _replicas(self, request: web.Request) -> web.Response:
        """One worker's view, with what others know better: their own requests, alarms, and the events they follow."""
        answers = [answer for answer in (await self._ask_all("GET", "/replicas")).values() if answer.status == 200]
        if not answers:
            return _nobody()
        first, *others = (orjson.loads(answer.text or "") for answer in answers)
        listed = {replica["name"]: replica for replica in first["replicas"]}
        for other in others:
            for replica in other["replicas"]:
                if replica["name"] in listed:
                    _add(listed[replica["name"]], replica)
        return json_reply(first)

    async def _pass_on(self, request: web.Request) -> web.Response:
        target = request.raw_path
        if not target.startswith("/"):
            return error_reply(400, "the request's target must be a path")
        headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
        body = await request.read()
        if request.method in ("GET", "HEAD") or request.path in _ONE_ANSWERS:
            return await self._ask_one(request.method, target, headers, body)
        answers = await self._ask_all(request.method, target, headers, body)
        change = _CHANGE.match(request.path)
        if change and any(answer.status == 200 for answer in answers.values()):
            self._workers.drained(change["name"], change["verb"] == "drain")
        # A worker that did not answer is ending, and learns of the change when it is started anew.
        return max(answers.values(), key=lambda answer: answer.status, default=_nobody())

    async def _ask_one(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> web.Response:
        """The first worker that answers."""
        for url in self._living().values():
            answer = await self._ask(url, method, target, headers, body)
            if answer is not None:
                return answer
        return _nobody()

    async def _ask_all(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> dict[int, web.Response]:
        """Worker -> its answer, for those that give one."""
        living = self._living()
        answers = await asyncio.gather(*(self._ask(url, method, target, headers, body) for url in living.values()))
        return {i: answer for i, answer in zip(living, answers, strict=True) if answer is not None}

    def _living(self) -> dict[int, str]:
        return {i: url for i, url in self._workers.addresses.items() if url is not None}

    async def _ask(
        self, url: str, method: str, target: str, headers: Mapping[str, str] | None, body: bytes
    ) -> web.Response | None:
        try:
            async with self._session.request(
                method, URL(url + target, encoded=True), headers=headers, data=body or None, allow_redirects=False
            ) as answer:
                told = {name: answer.headers[name] for name in _REPLY_HEADERS if name in answer.headers}
                return web.Response(status=answer.status, body=await answer.read(), headers=told)
        except (aiohttp.ClientError, TimeoutError):
            return None


def _add(shown: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Add what another worker knows of the same replica."""
    shown["in_flight"] += other["in_flight"]
    shown["canary"] = max(shown["canary"], other["canary"], key=lambda seen: (seen["alarm"], seen["disagreement"]))
    events = shown["events"]
    if events is not None and events["foreign"] and other["events"] is not None and not other["events"]["foreign"]:
        shown["events"], shown["about"] = other["events"], other["about"]


def merged(pages: Mapping[str, str]) -> str:
    """Pages in Prometheus' text format as one: each sample with the label `worker`, the page's key.

    Every family has its header once, from the first page that has it, and its samples from all pages together.
    """
    headers: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages.items():
        known = set(headers)
        family = ""
        label = f'worker="{worker}"'
        for line in page.split("\n"):
            comment = _COMMENT.match(line)
            if comment:
                family = comment[1]
                if family not in known:
                    headers.setdefault(family, []).append(line)
            elif line and line[0] != "#":
                samples.setdefault(family, []).append(_labelled(line, label))
    return "".join(f"{line}\n" for name, header in headers.items() for line in (*header, *samples.get(name, ())))


def _labelled(sample: str, label: str) -> str:
    """A sample's line with one more label in front of its own."""
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label}{'' if rest.startswith('}') else ','}{rest}"
    name, _, rest = sample.partition(" ")
    return f"{name}{{{label}}} {rest}"


def _nobody() -> web.Response:
    return error_reply(503, "no worker serves at this moment")
