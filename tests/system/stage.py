"""Several router processes in front of stand-in engines, with a real Redis server between them, and a client."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any

import aiohttp
import msgspec
import yaml

from kvroute.router.testing.children import free_ports
from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options
from tests.router.knowledge.sharing.servers import Server, server

MODEL = "mock"
BLOCK = 16
"""[tokens]"""
PATIENCE = 30.0
"""Longest wait for a state of processes that share few cores with everything else [s]."""
QUICK: dict[str, Any] = {
    "watch": {"health": {"interval": 0.5}, "scrape": {"interval": 1.0}, "discover_retry": 0.05},
    "limits": {"linger_seconds": 0.1, "drain_seconds": 2.0},
}
WORDS = "hello the ing baki lo senvo what where of great small river house tell me about it please and then "


class Reply(msgspec.Struct, frozen=True):
    """How one chat completion ended."""

    status: int
    began: float
    seconds: float
    """From request to last byte."""
    replica: str = ""
    predicted: int = 0
    """Cached tokens, as the router decided [tokens]."""
    best: int = 0
    """The same, where most were [tokens]."""
    cached: int = 0
    """Cached tokens, as the engine reports [tokens]."""
    prompt: int = 0
    """[tokens]"""
    text: str = ""
    fault: str = ""
    """What broke, where no answer came."""

    @property
    def foretold(self) -> bool:
        """The router knew what the engine found. An engine computes a prompt's last token in any case, and with it the
        last block where all of them are full."""
        return self.cached == min(self.predicted, (self.prompt - 1) // BLOCK * BLOCK)


class Router:
    """One router process, or one supervisor with its workers."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, ports: Sequence[int], stage: Stage) -> None:
        self.process = process
        self._log = log
        self.url, self.control = (f"http://127.0.0.1:{port}" for port in ports)
        self._stage = stage

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    async def ask(self, messages: str | Sequence[dict[str, str]], session: aiohttp.ClientSession | None = None,
                  **fields: Any) -> Reply:  # fmt: skip
        """One chat completion that is not streamed; never raises for what the network does."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return await ask(session or self._stage.session, self.url, messages, **fields)

    async def replicas(self) -> dict[str, dict[str, Any]]:
        """Name -> what the control plane tells of each replica."""
        return {replica["name"]: replica for replica in (await self._get("/replicas"))["replicas"]}

    async def sharing(self) -> dict[str, Any]:
        """What the control plane tells of the sharing."""
        told: dict[str, Any] = (await self._get("/replicas"))["sharing"]
        return told

    async def expects(self, text: str, model: str = MODEL, role: str = "user") -> int:
        """Cached tokens that it would find for this prompt; nothing is sent."""
        body = {"model": model, "messages": [{"role": role, "content": text}]}
        async with self._stage.session.post(f"{self.control}/explain", json=body) as answer:
            told = await answer.json()
        return max((candidate["hit_tokens"] for candidate in told["candidates"]), default=0)

    async def metrics(self) -> str:
        """The text of its metrics page."""
        async with self._stage.session.get(f"{self.control}/metrics") as answer:
            return await answer.text()

    async def serves(self, path: str = "/health") -> bool:
        """Whether the clients' port answers."""
        try:
            async with self._stage.session.get(self.url + path) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            if self.process.poll() is not None:
                raise AssertionError(f"the router ended:\n{self.log()}") from None
            return False

    async def exact(self) -> bool:
        """Whether what it knows of every listed engine is exact."""
        replicas = await self.replicas()
        return len(replicas) == len(self._stage.engines) and all(
            replica["state"] == "ready" and replica["knowledge"] == "exact" for replica in replicas.values()
        )

    async def settled(self) -> bool:
        """Whether all listed engines serve, and their prompts are read as tokens."""
        replicas = await self.replicas()
        return len(replicas) == len(self._stage.engines) and all(
            replica["state"] == "ready" and "token lens" in replica["about"] for replica in replicas.values()
        )

    async def follows(self) -> set[str]:
        """Replicas whose events it follows itself."""
        replicas = (await self.replicas()).values()
        return {replica["name"] for replica in replicas if replica["events"] and not replica["events"]["foreign"]}

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Politely."""
        self.process.terminate()
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.kill()

    async def _get(self, path: str) -> Any:
        async with self._stage.session.get(self.control + path) as answer:
            return await answer.json()


async def ask(session: aiohttp.ClientSession, url: str, messages: Sequence[dict[str, str]], **fields: Any) -> Reply:
    """One chat completion at a router or an engine."""
    body = {"model": MODEL, "max_tokens": 4, "messages": list(messages), **fields}
    began = time.monotonic()
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body, headers={"X-Kvroute-Explain": "1"}) as answer:
            told = await answer.json(content_type=None)
            seconds = time.monotonic() - began
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return Reply(0, began, time.monotonic() - began, fault=repr(error))
    if answer.status != 200:
        return Reply(answer.status, began, seconds, fault=str(told))
    usage = told["usage"]
    details = usage.get("prompt_tokens_details") or {}
    return Reply(
        answer.status,
        began,
        seconds,
        answer.headers.get("X-Kvroute-Replica", ""),
        int(answer.headers.get("X-Kvroute-Hit-Tokens", 0)),
        int(answer.headers.get("X-Kvroute-Best-Hit-Tokens", 0)),
        details.get("cached_tokens") or 0,
        usage["prompt_tokens"],
        told["choices"][0]["message"]["content"],
    )


class Stage:
    """Engines in this process, routers in processes of their own."""

    def __init__(self, engines: Sequence[StandInEngine], redis: Server, session: aiohttp.ClientSession, folder: Path):
        self.engines = engines
        self.redis = redis
        self.redis_url = redis.url
        self.session = session
        self._folder = folder
        self._routers: list[Router] = []

    async def router(self, *arguments: str, redis: str | None = None, flush: float = 0.005, **settings: Any) -> Router:
        """Start one. `redis`: the namespace under which it shares what it knows, every `flush` s; None: it shares
        nothing."""
        ports = free_ports(2)
        number = len(self._routers)
        config, log = self._folder / f"{number}.yaml", self._folder / f"{number}.log"
        shared = {} if redis is None else {"redis": {"url": self.redis_url, "namespace": redis, "flush_seconds": flush}}
        config.write_text(yaml.safe_dump({**QUICK, **shared, **settings}))
        command = [sys.executable, "-m", "kvroute.router.cli", "serve", "--config", str(config), "--host", "127.0.0.1"]
        command += ["--port", str(ports[0]), "--control-port", str(ports[1]), *arguments]
        for engine in self.engines:
            command += ["--backend", engine.url]
        with log.open("wb") as written:
            process = _started(command, written)
        started = Router(process, log, ports, self)
        self._routers.append(started)
        await until(started.serves)
        return started

    async def tell(self, engine: StandInEngine, text: str, **fields: Any) -> Reply:
        """A prompt sent to an engine past all routers."""
        return await ask(self.session, engine.url, [{"role": "user", "content": text}], **fields)

    async def order(self, path: str) -> None:
        """POST to each engine, e.g. `/pause`."""
        for engine in self.engines:
            async with self.session.post(engine.url + path) as answer:
                assert answer.status == 200

    async def busy(self, count: int) -> bool:
        """Whether the engines have so many requests under way."""
        return sum(engine.service.in_flight for engine in self.engines) >= count

    def hit_rate(self) -> HitRate:
        """A meter that begins now."""
        return HitRate(self.engines)

    def held(self) -> dict[str, int]:
        """Replica -> blocks that its engine has in its cache."""
        return {
            f"127.0.0.1:{engine.port}": sum(rank.live.engine.cache.cached_blocks for rank in engine.service.ranks)
            for engine in self.engines
        }

    def end(self, *routers: Router) -> None:
        """End these routers, or all."""
        for one in routers or tuple(self._routers):
            if one.process.poll() is None:
                one.process.terminate()
        for one in routers or tuple(self._routers):
            one.end()


class HitRate:
    """Share of all prompt tokens since its making that engines found in their caches, by the counters that their
    `/metrics` show."""

    def __init__(self, engines: Sequence[StandInEngine]) -> None:
        self._engines = engines
        self._hit, self._queried = self._totals()

    def _totals(self) -> tuple[int, int]:
        return sum(engine.hit_tokens for engine in self._engines), sum(
            engine.queried_tokens for engine in self._engines
        )

    def now(self) -> float:
        """[0..1]"""
        hit, queried = self._totals()
        return (hit - self._hit) / (queried - self._queried)


def _started(command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)


@asynccontextmanager
async def staged(count: int, model_folder: str, redis: Server | None = None, **options: Any) -> AsyncIterator[Stage]:
    """A stage with so many engines that publish their events, and a Redis server of its own unless given."""
    publishing = {"events_port": 0, "replay_port": 0, "enable_prompt_tokens_details": True, "speed": 20.0}
    engine = Options(**{"model_folder": model_folder, "kv_blocks": 40_000, **publishing, **options})
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvroute-system-")))
        used = stack.enter_context(server()) if redis is None else redis
        engines = [await stack.enter_async_context(StandInEngine(engine)) for _ in range(count)]
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        made = Stage(engines, used, session, folder)
        stack.callback(made.end)
        yield made


async def until(true: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> float:
    """Wait for a state of other processes; the seconds that it took. Fails when it does not come."""
    began = time.monotonic()
    while not await true():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"it did not come to that within {seconds} s")
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def text(about: str, words: int = 200) -> str:
    """A prompt that nobody else has, of about so many words."""
    return f"{about} {about} " + WORDS * (words // 18)
