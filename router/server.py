"""The whole router, put together: knowledge, decision, data plane, watch and control plane; started, drained, ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import secrets
import signal
import ssl
import sys
import time
from pathlib import Path

import aiohttp
import numpy as np
import uvloop

from kvroute import __version__
from kvroute.router import credentials
from kvroute.router.config import Config, Listen, Redis
from kvroute.router.control.admin import ControlServer, make_admin
from kvroute.router.control.decisions import DecisionLog
from kvroute.router.control.logs import set_up_logs
from kvroute.router.control.loop_lag import LoopLag
from kvroute.router.control.metrics import Metrics
from kvroute.router.core.decide import Deciding
from kvroute.router.core.decided import VERSION, Began
from kvroute.router.core.fleet import Fleet
from kvroute.router.core.index import Index
from kvroute.router.core.observed import Observed
from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.dataplane.memory import keep_freed_memory
from kvroute.router.dataplane.server import DataPlane
from kvroute.router.errors import ConfigError
from kvroute.router.facade import Facade
from kvroute.router.fleetwatch.backend import Backend, check_distinct
from kvroute.router.fleetwatch.engine_client import EngineClient, Unreachable
from kvroute.router.fleetwatch.models import discover
from kvroute.router.fleetwatch.static import BackendsFile
from kvroute.router.fleetwatch.watch import Watch
from kvroute.router.hearing import Hearing
from kvroute.router.knowing import Knowing
from kvroute.router.knowledge.lenses import Lenses
from kvroute.router.knowledge.sharing.place import place
from kvroute.router.knowledge.sharing.redis_store import RedisStore
from kvroute.router.knowledge.sharing.sharing import Settings as SharingSettings
from kvroute.router.knowledge.sharing.sharing import Sharing
from kvroute.router.knowledge.sharing.store import Store
from kvroute.router.knowledge.text import TextLens
from kvroute.router.local import LocalPaths
from kvroute.router.membership import Membership
from kvroute.router.observing import Observing
from kvroute.router.traffic import Target, Traffic, TrafficOptions
from kvroute.scorers.plugins import load_policy

log = logging.getLogger(__name__)

KNOWN_SECONDS = 2.0
"""A router that shares what is known waits so long at most before it takes requests, to know what the others do."""


class Server:
    """One router process. `start`, then `drain` and `close`."""

    def __init__(self, config: Config, shared: Listen | None = None, worker: int | None = None) -> None:
        """Build everything; nothing listens yet.

        `shared`: where one of several workers listens; it shares the clients' port with the others. `worker`: its
        number among them.

        Raises:
            ConfigError, PluginError: the configuration names what cannot be had.
        """
        self.config = config
        self._listen = shared or config.listen
        self._reuse_port = shared is not None
        targets: dict[str, Target] = {}
        policy = load_policy(config.policy_spec(), self._plugin_failed)
        known = config.knowledge
        self.deciding = Deciding(
            Fleet(config.step),
            Index(Observed(seed=secrets.randbits(63))),
            policy,
            np.random.default_rng(config.seed),
            (0.0, known.cpu_seconds, known.disk_seconds),
        )
        self.metrics = Metrics(__version__, config.policy_spec().name or "custom")
        self.membership = Membership(self.deciding, targets, self.metrics, name_replicas=config.replica_header)
        self.observing = Observing(self.metrics, self.membership, time.monotonic, log_requests=config.logging.requests)
        self.membership.left = self.observing.forget
        upstream_ssl = credentials.upstream_ssl(config)
        self._client = EngineClient(
            credentials.api_key(config), connect_timeout=config.limits.connect_seconds, tls=upstream_ssl
        )
        self.watch = Watch(self._client, self.membership, config.watch, rng=random.Random(config.seed))
        self.lenses = Lenses(
            TextLens(known.text_block_bytes),
            config.tokenizer,
            block_tokens=known.block_tokens,
            threads=known.tokenizer_threads,
            chat=config.chat,
        )
        self.hearing = Hearing(
            self.deciding,
            self.lenses,
            self._client,
            known.kv_events,
            (known.events_port, known.replay_port or None),
        )
        self.membership.hears = self.hearing
        self.sharing: Sharing | None = None
        self._store: Store | None = None
        if config.redis.url is not None:
            self._share(config.redis, config.redis.url)
        self._session: aiohttp.ClientSession | None = None
        self._upstream_ssl = upstream_ssl
        self.local = LocalPaths(
            self.membership, self.metrics, __version__, self._open_session, self.watch.missing, self._rediscover
        )
        self.traffic = Traffic(
            self.deciding,
            self.lenses,
            self.observing,
            self.watch,
            self.local,
            _options(config),
        )
        self.traffic.targets = targets
        self.decisions: DecisionLog | None = None
        if config.logging.decisions is not None:
            self.decisions = self._log_decisions(config.logging.decisions, worker)
        self.knowing = Knowing(self.deciding, self.membership, self.hearing, self.lenses)
        self.facade = Facade(__version__, config, self.traffic, self.membership, self.local, self.knowing)
        self.metrics.replicas = self.facade.replicas
        self.metrics.knowledge = self.knowing.all
        self.dataplane = DataPlane(self.traffic, config.limits, upstream_ssl)
        self.metrics.counters = self.dataplane.counters
        self._lag = LoopLag(self.metrics.router.loop_lag.observe)
        self._control = ControlServer(
            make_admin(self.facade, self.metrics), self._listen.control_host, self._listen.control_port
        )
        self._context: ssl.SSLContext | None = None
        self._file: BackendsFile | None = None
        self.control_port = 0

    @property
    def port(self) -> int:
        """The main port, known after `start`."""
        return self.dataplane.ports[0]

    async def start(self) -> None:
        """Look for the replicas, which join when they answer, and listen.

        Raises:
            OSError: an address cannot be had.
            ConfigError: the backends' file or the certificate cannot be read.
        """
        await self.prepare()
        if self.sharing is not None:
            await self.known(KNOWN_SECONDS)
        await self.listen()

    async def prepare(self) -> None:
        """All of `start` but the clients' port."""
        config = self.config
        backends = config.backend_list()
        if config.backends_file is not None:
            self._file = BackendsFile(Path(config.backends_file), self._listed)
            backends = check_distinct([*backends, *self._file.start()])
        self._context = credentials.client_ssl(config)
        if self.decisions is not None:
            self._begin(self.decisions)
        await self.lenses.start()
        self.control_port = await self._control.start()
        self._lag.start()
        if self.sharing is not None:
            self.sharing.start()
        self._expect(backends)

    async def known(self, seconds: float, stop: asyncio.Event | None = None) -> None:
        """Wait until the listed replicas have joined and what is shared of them was read, but so long at most: half of
        it where at least one replica is ready."""
        started = time.monotonic()
        while (self.watch.missing() or not self.hearing.settled) and not (stop is not None and stop.is_set()):
            waited = time.monotonic() - started
            if waited > seconds or (waited > 0.5 * seconds and self.local.ready()):
                break
            await asyncio.sleep(0.02)
        left = seconds - (time.monotonic() - started)
        if self.sharing is not None and left > 0.0 and not await self.sharing.warm(left):
            log.warning("what other routers know was not read in time: the first decisions go without it")

    async def listen(self) -> None:
        """Take clients' requests from here on."""
        listen = self._listen
        await self.dataplane.start(listen.host, listen.port, context=self._context, reuse_port=self._reuse_port)
        where = f"{listen.host}:{self.port}, control on {listen.control_host}:{self.control_port}"
        count = len(self.membership.members)
        log.info("kvroute %s listens on %s; policy %s, %d backends", __version__, where, self.facade.policy, count)

    async def drain(self) -> bool:
        """Stop accepting and let what runs end; False when the time for it was not enough."""
        log.info("draining: %d requests under way", len(self.deciding.ledger))
        return await self.dataplane.drain()

    async def close(self) -> None:
        """End everything at once."""
        await self.dataplane.close()
        self._lag.close()
        if self._file is not None:
            await self._file.close()
        await self.watch.close()
        if self.sharing is not None:
            await self.sharing.close()
        self.hearing.close()
        if self.decisions is not None:
            await self.decisions.close()
        if self._store is not None:
            await self._store.close()
        await self.lenses.close()
        await self._control.close()
        await self._client.close()
        if self._session is not None:
            await self._session.close()

    def _share(self, redis: Redis, url: str) -> None:
        where = place(
            url,
            user=redis.user,
            password_env=redis.password_env,
            password_file=redis.password_file,
            ca_file=redis.ca,
            sentinel_user=redis.sentinel_user,
            sentinel_password_env=redis.sentinel_password_env,
            sentinel_password_file=redis.sentinel_password_file,
        )
        self._store = RedisStore(where)
        settings = SharingSettings(namespace=redis.namespace, flush_seconds=redis.flush_seconds)
        self.sharing = self.hearing.sharing = Sharing(self.deciding, self._store, settings, listener=self.hearing)
        self.sharing.foreign.sent = self.hearing.sent
        log.info("what is known is shared through %s, under %r", where, redis.namespace)

    def _log_decisions(self, path: str, worker: int | None) -> DecisionLog:
        config, known = self.config, self.config.knowledge
        fetch, shared = (0.0, known.cpu_seconds, known.disk_seconds), config.redis.url is not None
        spec, step, block = config.policy_spec(), config.step, known.text_block_bytes

        def began(wall: float, clock: float, order: int) -> Began:
            return Began(
                VERSION, __version__, wall, clock, order, spec, config.seed, step, fetch, block, worker, shared
            )

        made = DecisionLog(path if worker is None else f"{path}.{worker}", began)
        self.traffic.decisions = self.membership.decisions = made
        self.metrics.decisions = made.counts
        return made

    def _begin(self, decisions: DecisionLog) -> None:
        try:
            decisions.start()
        except OSError as error:
            raise ConfigError(f"logging.decisions: {decisions.path} cannot be written: {error.strerror}") from error

    def _listed(self, backends: list[Backend]) -> None:
        """The backends' file changed."""
        try:
            self._expect(check_distinct([*self.config.backend_list(), *backends]))
        except ConfigError as error:
            log.error("%s; the backends stay as they were", error)

    def _expect(self, backends: list[Backend]) -> None:
        self.watch.set_backends(backends)
        self.membership.expect(backends, time.monotonic())

    async def _rediscover(self, endpoint: Endpoint) -> None:
        member = self.membership.members.get(endpoint)
        try:
            served = await discover(self._client, endpoint)
        except Unreachable as error:
            log.warning("%s: %s", endpoint.name, error)
            return
        if member is not None and member.served is not None:
            self.membership.serving(endpoint, served.only(member.backend.models), time.monotonic())

    def _plugin_failed(self, name: str, distribution: str, message: str) -> None:
        self.observing.fault(name, distribution, message)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._upstream_ssl or True)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session


def run(config: Config) -> None:
    """Serve until told to stop: the first SIGTERM or SIGINT drains, the second ends at once.

    Raises:
        KvrouteError, PluginError, OSError: it cannot start.
    """
    set_up_logs(config.logging.level, config.logging.format)
    keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))


async def _serve(config: Config) -> None:
    server = Server(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stop.is_set():
            log.warning("told twice: ending at once")
            os._exit(130)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    try:
        await server.start()
        spare_the_collector()
        await stop.wait()
        if not await server.drain():
            log.warning("%d requests did not end in time and are cut", len(server.deciding.ledger))
    finally:
        await server.close()
    log.info("ended")
    sys.stderr.flush()


def spare_the_collector() -> None:
    """What start-up made lives until the end: the collector need not look at it again and again.

    Requests leave no cycles behind, so it may also look for them less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 20, 50)


def _options(config: Config) -> TrafficOptions:
    return TrafficOptions(
        management=config.management,
        trust_kv_transfer_params=config.trust_kv_transfer_params,
        session_header=config.session_header.lower().encode(),
        retry_share=config.retry_share,
    )
