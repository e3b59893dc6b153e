"""Turns what the watch sees of endpoints into replicas of the fleet: joins, leaves, drains, restarts, readings."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from kvroute.router.control.metrics import Metrics
from kvroute.router.core.canary import Canary, Hint
from kvroute.router.core.decide import Deciding
from kvroute.router.core.decided import VERSION
from kvroute.router.core.decided import Reading as ReadingLine
from kvroute.router.core.outside import MEAN_MISS_TOKENS, Outside
from kvroute.router.core.replica import Replica, Spec, State
from kvroute.router.core.trust import Trust
from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.fleetwatch.backend import Backend
from kvroute.router.fleetwatch.exposition import Reading
from kvroute.router.fleetwatch.models import Served
from kvroute.router.hears import Deaf, Hears
from kvroute.router.traffic import Target
from kvroute.scorers.contract import Column

if TYPE_CHECKING:
    from kvroute.router.control.decisions import DecisionLog

log = logging.getLogger(__name__)


class Member:
    """One endpoint and its replicas, one per data-parallel rank."""

    __slots__ = ("asleep", "backend", "drained", "reason", "replicas", "served", "up")

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.replicas: list[Replica] = []
        self.served: Served | None = None
        self.up = False
        self.drained = False
        """An operator asked for it."""
        self.asleep = False
        self.reason = "has not answered yet"

    @property
    def state(self) -> State:
        """Where its replicas belong."""
        if not self.up:
            return State.EJECTED if self.served is not None else State.JOINING
        return State.DRAINING if self.drained or self.asleep else State.READY


class Cached:
    """What is followed of one replica's cache: how far its estimate is trusted, and its last reading."""

    __slots__ = ("adapters", "canary", "last", "limit", "trust")

    def __init__(self) -> None:
        self.trust = Trust()
        self.canary = Canary()
        self.last: Reading | None = None
        self.limit = math.nan
        """What of its cache was last believed to be there for us; NaN before the first reading [tokens]."""
        self.adapters: OrderedDict[str, None] = OrderedDict()
        """LoRA adapters seen at work there, the latest last."""


class Membership:
    """Implements the watch's FleetListener over one `Deciding`."""

    def __init__(
        self, deciding: Deciding, targets: dict[str, Target], metrics: Metrics, *, name_replicas: bool = False
    ) -> None:
        self._deciding = deciding
        self._metrics = metrics
        self._targets = targets
        self._name_replicas = name_replicas
        self._outside = Outside(deciding.fleet)
        self._cached: dict[str, Cached] = {}
        self._lives: dict[str, float] = {}
        """When each replica's engine started, where it tells [s since 1970]."""
        self.members: dict[Endpoint, Member] = {}
        self.hears: Hears = Deaf()
        self.decisions: DecisionLog | None = None
        """Where it is written what became of the fleet, if anywhere."""
        self.left: Callable[[str], None] = metrics.forget
        """Called with the name of each replica that has left."""
        self.mean_miss_tokens = MEAN_MISS_TOKENS
        """Moving mean of uncached prompt tokens of our own requests."""

    def __iter__(self) -> Iterator[tuple[Member, Replica]]:
        """Every replica with its endpoint's member."""
        return ((member, replica) for member in self.members.values() for replica in member.replicas)

    def cached(self, name: str) -> Cached:
        """What is followed of a replica's cache."""
        cached = self._cached.get(name)
        if cached is None:
            cached = self._cached[name] = Cached()
        return cached

    def hint(self, replica: Replica) -> Hint:
        """The likely cause of the canary's alarm at this replica."""
        tells = self.hears.tells(replica)
        return self.cached(replica.name).canary.hint(
            replica.source, tokenized=tells.tokenized, events_seen=tells.events_seen, mismatched=tells.mismatched
        )

    # --- the list of backends ---

    def expect(self, backends: Iterable[Backend], now: float) -> None:
        """These are listed: each shows as joining until it answers. Those no longer listed leave."""
        backends = list(backends)
        for endpoint in self.members.keys() - {backend.endpoint for backend in backends}:
            self.gone(endpoint, now)
        for backend in backends:
            if backend.endpoint not in self.members:
                member = self.members[backend.endpoint] = Member(backend)
                member.replicas = [self._join(member, None, now)]

    # --- FleetListener ---

    def joined(self, backend: Backend, served: Served, readings: list[Reading], now: float) -> None:
        """An engine answers for the first time."""
        member = self.members.setdefault(backend.endpoint, Member(backend))
        member.backend = backend
        self._serve(member, served, readings, now)

    def ejected(self, endpoint: Endpoint, reason: str, now: float) -> None:
        """It does not answer: no new requests."""
        member = self.members[endpoint]
        member.up, member.reason = False, reason
        self._settle_state(member)
        for replica in member.replicas:
            self._metrics.ejected(replica.name)

    def recovered(
        self, endpoint: Endpoint, served: Served, readings: list[Reading], restarted: bool, now: float
    ) -> None:
        """It answers again."""
        if restarted:
            self.restarted(endpoint, now)
        self._serve(self.members[endpoint], served, readings, now)

    def serving(self, endpoint: Endpoint, served: Served, now: float) -> None:
        """What it serves has changed."""
        member = self.members[endpoint]
        member.served = served
        for replica in member.replicas:
            self._update(member, replica)
        lasts = (self.cached(replica.name).last for replica in member.replicas)
        self._tell_served(member, [last for last in lasts if last is not None])

    def gone(self, endpoint: Endpoint, now: float) -> None:
        """It is no longer listed."""
        member = self.members.pop(endpoint, None)
        if member is not None:
            for replica in member.replicas:
                self._leave(replica)

    def restarted(self, endpoint: Endpoint, now: float) -> None:
        """The engine's process is another one: its cache is empty."""
        for replica in self.members[endpoint].replicas:
            log.warning("%s restarted: what it had cached is forgotten", replica.name)
            self._deciding.drop(replica)
            self.hears.restarted(replica)
            self._lives.pop(replica.name, None)
            self._outside.forget(replica)
            self._cached.pop(replica.name, None)
            self._metrics.restarted(replica.name)
            if self.decisions is not None:
                self.decisions.restarted(replica)

    def scraped(self, endpoint: Endpoint, readings: list[Reading], now: float) -> None:
        """Fresh readings, one per rank."""
        member = self.members[endpoint]
        if self._set_ranks(member, readings, now):
            self._settle_state(member)
            self._tell_served(member, readings)
        elif any(self._lives.get(replica.name, 0.0) != _life(readings) for replica in member.replicas):
            self._tell_served(member, readings)
        by_rank = {replica.spec.rank: replica for replica in member.replicas}
        for reading in readings:
            replica = by_rank.get(reading.rank) or by_rank.get(None)
            if replica is not None:
                self._read(replica, reading)
        asleep = bool(readings) and all(reading.asleep for reading in readings)
        if asleep != member.asleep:
            member.asleep = asleep
            member.reason = "asleep" if asleep else ""
            self._settle_state(member)

    # --- the admin's side ---

    def drain(self, name: str, drained: bool) -> bool:
        """Drain or undrain the endpoint of a replica; False when there is no such replica."""
        for member, replica in self:
            if replica.name == name:
                member.drained = drained
                member.reason = "drained by an operator" if drained else ""
                self._settle_state(member)
                return True
        return False

    # --- inside ---

    def _serve(self, member: Member, served: Served, readings: list[Reading], now: float) -> None:
        member.served, member.up, member.reason = served, True, ""
        self._set_ranks(member, readings, now)
        for replica in member.replicas:
            self._update(member, replica)
        self._settle_state(member)
        for lack in _lacking(readings):
            log.warning("%s %s", member.backend.endpoint.name, lack)
        self._tell_served(member, readings)
        self.scraped(member.backend.endpoint, readings, now)

    def _set_ranks(self, member: Member, readings: list[Reading], now: float) -> bool:
        """One replica for each rank that the metrics show; without metrics they stay as they are."""
        if not readings:
            return False
        ranks: list[int | None] = [reading.rank for reading in readings] if len(readings) > 1 else [None]
        if [replica.spec.rank for replica in member.replicas] == ranks:
            return False
        for replica in member.replicas:
            self._leave(replica)
        member.replicas = [self._join(member, rank, now) for rank in ranks]
        return True

    def _tell_served(self, member: Member, readings: list[Reading]) -> None:
        if member.served is not None:
            block_tokens = next((reading.block_size for reading in readings if reading.block_size), None)
            for model in member.served.models[:1]:
                engine, served = member.backend.endpoint.name, member.served
                self.hears.serves(model, engine, served.root(model), block_tokens, served.max_model_len)
            life = _life(readings)
            for replica in member.replicas:
                self._lives[replica.name] = life
                self.hears.served(replica, member.backend, life)

    def _settle_state(self, member: Member) -> None:
        for replica in member.replicas:
            if replica.state is not member.state:
                self._deciding.fleet.move(replica, member.state)
                if self.decisions is not None:
                    self.decisions.moved(replica)

    def _update(self, member: Member, replica: Replica) -> None:
        self._deciding.fleet.update(replica, self._spec(member, replica.spec.rank))
        if self.decisions is not None:
            self.decisions.changed(replica)

    def _spec(self, member: Member, rank: int | None) -> Spec:
        backend, served = member.backend, member.served
        name = backend.endpoint.name
        return Spec(
            name=name if rank is None else f"{name}/{rank}",
            endpoint=name,
            models=served.models if served else backend.models,
            adapters=frozenset(served.adapters) if served else frozenset(),
            rank=rank,
            role=backend.role,
            slots=float(backend.slots),
            labels=backend.labels,
        )

    def _join(self, member: Member, rank: int | None, now: float) -> Replica:
        replica = self._deciding.fleet.join(self._spec(member, rank), now)
        if self.decisions is not None:
            self.decisions.joined(replica)
        self._targets[replica.name] = Target(
            member.backend.endpoint,
            () if rank is None else ((b"X-data-parallel-rank", str(rank).encode()),),
            ((b"X-Kvroute-Replica", replica.name.encode()),) if self._name_replicas else (),
        )
        return replica

    def _leave(self, replica: Replica) -> None:
        self.hears.left(replica)
        self._lives.pop(replica.name, None)
        self._outside.forget(replica)
        self._targets.pop(replica.name, None)
        self._deciding.drop(replica)
        self._deciding.occupancy.leave(replica.row)
        self._cached.pop(replica.name, None)
        self._deciding.fleet.move(replica, State.GONE)
        if self.decisions is not None:
            self.decisions.left(replica)
        self.left(replica.name)

    def _read(self, replica: Replica, reading: Reading) -> None:
        deciding, cached = self._deciding, self.cached(replica.name)
        before, cached.last = cached.last, reading
        cells = replica.cells.copy()
        seconds, tokens = self._learn(replica, cached, before, reading) if before is not None else (0.0, 0.0)
        if reading.capacity_tokens:
            deciding.fleet.write(replica, Column.CAPACITY_TOKENS, reading.capacity_tokens)
        limit = self._believe(replica, cached, reading)
        miss = self.mean_miss_tokens
        applied = self._outside.read(replica, reading.running or 0.0, reading.waiting or 0.0, miss)
        if self.decisions is not None and (replica.cells != cells or limit != cached.limit or seconds > 0.0):
            outside = (*self._outside.applied(replica), miss) if applied else None
            sums = (seconds, tokens) if math.isfinite(seconds + tokens) else (0.0, 0.0)
            held, block = reading.capacity_tokens, reading.block_size
            known = limit if limit < math.inf else None
            self.decisions.read(ReadingLine(VERSION, 0, 0.0, replica.name, *sums, held, block, known, outside))
        cached.limit = limit
        if reading.max_adapters and len(replica.spec.adapters) > reading.max_adapters:
            for name in (*reading.running_adapters, *reading.waiting_adapters):
                self._adapter_used(replica, cached, name)
            while len(cached.adapters) > reading.max_adapters:
                cached.adapters.popitem(last=False)
            self._set_resident(replica, frozenset(cached.adapters))
        else:
            self._set_resident(replica, None)

    def adapter_used(self, replica: Replica, name: str) -> None:
        """A request for an adapter was sent there: it will be on the device when the next one comes."""
        if replica.resident is not None and name not in replica.resident:
            cached = self.cached(replica.name)
            self._adapter_used(replica, cached, name)
            self._set_resident(replica, replica.resident | {name})

    def _set_resident(self, replica: Replica, adapters: frozenset[str] | None) -> None:
        if adapters != replica.resident:
            self._deciding.fleet.set_resident(replica, adapters)
            if self.decisions is not None:
                self.decisions.resident(replica)

    def _adapter_used(self, replica: Replica, cached: Cached, name: str) -> None:
        cached.adapters[name] = None
        cached.adapters.move_to_end(name)

    def _learn(self, replica: Replica, cached: Cached, before: Reading, reading: Reading) -> tuple[float, float]:
        """What the engine's sums tell of its speed and its cache: its prefill seconds, and the tokens of those."""
        seconds = (reading.prefill_seconds or 0.0) - (before.prefill_seconds or 0.0)
        tokens = (reading.computed_tokens or 0.0) - (before.computed_tokens or 0.0)
        self._deciding.estimate.engine_sums(replica, seconds, tokens)
        hits, prompts = _cache_totals(reading)
        old_hits, old_prompts = _cache_totals(before)
        cached.trust.counted(hits - old_hits, prompts - old_prompts)
        return seconds, tokens

    def _believe(self, replica: Replica, cached: Cached, reading: Reading) -> float:
        """Set what is believed to be there for us of its cache, and say it [tokens]."""
        capacity = reading.capacity_tokens or math.inf
        if reading.prefix_caching is False:
            capacity = 0.0
        share = cached.trust.share
        limit = capacity * share if share < 1.0 else capacity
        self._deciding.occupancy.set_capacity(replica.row, limit)
        return limit


def _lacking(readings: list[Reading]) -> Iterator[str]:
    """What an engine's metrics do not tell, and what that costs."""
    if not readings:
        yield "shows no /metrics: its cache is taken to hold 2,000,000 tokens, and others' load is not seen"
        return
    if any(reading.prefix_caching is False for reading in readings):
        yield "has prefix caching switched off: every prompt is taken to be computed anew there"
    elif any(reading.capacity_tokens is None for reading in readings):
        yield "does not tell its cache size in /metrics: it is taken to be 2,000,000 tokens, too many for most"


def _life(readings: list[Reading]) -> float:
    """When the engine started [s since 1970]; 0 where it does not tell."""
    return next((reading.started_at for reading in readings if reading.started_at), 0.0)


def _cache_totals(reading: Reading) -> tuple[float, float]:
    """(prompt tokens that were not computed, prompt tokens), by the better of two pairs of counters."""
    if reading.cached_tokens is not None and reading.prompt_tokens is not None:
        return reading.cached_tokens, reading.prompt_tokens
    return reading.prefix_hits or 0.0, reading.prefix_queries or 0.0
