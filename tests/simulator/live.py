"""The live router's decision loop under a clock that is a number, in front of simulated engines."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
import numpy as np
import orjson

from kvroute.router.control.metrics import Metrics
from kvroute.router.core.decide import Deciding
from kvroute.router.core.fleet import Fleet
from kvroute.router.core.index import Index
from kvroute.router.core.replica import Spec, State
from kvroute.router.dataplane.contract import Endpoint, Head, Outcome, Reply
from kvroute.router.exchange import Exchange
from kvroute.router.fleetwatch.backend import Backend
from kvroute.router.fleetwatch.exposition import Reading
from kvroute.router.knowledge.text import Prompt
from kvroute.router.membership import Member, Membership
from kvroute.router.observing import Observing
from kvroute.router.parse import Body
from kvroute.router.traffic import Target, Traffic, TrafficOptions
from kvroute.scorers.contract import Column
from kvroute.scorers.plugins import load_policy
from kvroute.simulator.engine.closed import ClosedForm
from kvroute.simulator.engine.contract import Milestone
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.runs.underway import keys_of
from kvroute.simulator.workloads.contract import Job, Workload

PATH = b"/v1/completions"
SCRAPE, ENGINE, ANSWER, TIMER, ARRIVAL = range(5)
"""Who comes first at equal times."""


class Pick(NamedTuple):
    """One decision, and what came of it."""

    replica: str
    hit_tokens: float
    best_hit_tokens: float
    predicted_ttft: float
    first: float | None
    ended: float


class Health:
    """Endpoints that always answer."""

    def report_failure(self, endpoint: Endpoint, now: float) -> None:
        raise AssertionError("no attempt fails here")

    def suspect(self, endpoint: Endpoint) -> None:
        raise AssertionError("no attempt fails here")

    def report_success(self, endpoint: Endpoint) -> None: ...


class Nowhere:
    """No paths of the router's own are asked for."""

    def answer(self, path: bytes) -> Reply | Awaitable[Reply]:
        raise AssertionError(path)

    def broadcast(self, head: Head, body: bytes) -> Awaitable[Reply]:
        raise AssertionError(head)


class KnownPrompts:
    """A lens that knows each prompt by its name."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def read(self, body: Body, model: str, adapter: str | None) -> Prompt | Awaitable[Prompt]:
        """What the simulator's router reads of it."""
        request = self.jobs[body.fields["prompt"]].request
        return Prompt(list(request.keys), request.tokens, request.block_tokens, request.anchor, 0)

    def observe(self, model: str, text_bytes: int, prompt_tokens: int) -> None: ...


class LiveLoop:
    """Traffic, exchanges, observer and membership of the live router; bytes in, reports of the data plane in; time and
    engines are simulated."""

    def __init__(self, workload: Workload, scenario: Scenario) -> None:
        """Its engines' metrics are read as often as the scenario says."""
        self._scrape_seconds = scenario.lateness.scrape_seconds
        self._prefill: dict[str, float] = {}
        self._computed: dict[str, float] = {}
        fleet = Fleet(rows=len(scenario.replicas))
        self.deciding = Deciding(fleet, Index(), load_policy(scenario.policy), np.random.default_rng(scenario.seed))
        self.now = 0.0
        self._workload = workload
        self._lens = KnownPrompts()
        metrics = Metrics()
        targets: dict[str, Target] = {}
        self._membership = Membership(self.deciding, targets, metrics)
        observing = Observing(metrics, self._membership, self.clock)
        self.traffic = Traffic(
            self.deciding, self._lens, observing, Health(), Nowhere(), TrafficOptions(), clock=self.clock
        )
        self.traffic.targets = targets
        self._kinds = {f"replica-{number}": kind for number, kind in enumerate(scenario.replicas)}
        self._engines = {}
        for name, kind in self._kinds.items():
            limits = msgspec.structs.replace(kind.limits, key_tokens=workload.key_tokens)
            self._engines[name] = ClosedForm(limits, kind.step)
            replica = fleet.join(Spec(name=name, endpoint=name, models=("m",), slots=float(limits.max_num_seqs)), 0.0)
            capacity = float(limits.blocks * limits.block_size)
            fleet.write(replica, Column.CAPACITY_TOKENS, capacity)
            self.deciding.occupancy.set_capacity(replica.row, capacity)
            fleet.move(replica, State.READY)
            targets[name] = Target(Endpoint(name, 8000))
            member = self._membership.members[Endpoint(name, 8000)] = Member(Backend(Endpoint(name, 8000)))
            member.replicas, member.up = [replica], True
        self._due: list[tuple[float, int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._sent = itertools.count()
        self._exchanges: dict[str, Exchange] = {}
        self._first: dict[str, float] = {}
        self.picks: dict[str, Pick] = {}

    def clock(self) -> float:
        """The fake one."""
        return self.now

    def run(self) -> dict[str, Pick]:
        """Every job's pick."""
        for job in self._workload.arrivals():
            self._at(job.at, ARRIVAL, lambda job=job: self._arrive(job))  # type: ignore[misc]
        self._scrape()
        self._at(0.5 * self._scrape_seconds, SCRAPE, self._scrape)
        while self._due:
            self.now, _, _, act = heapq.heappop(self._due)
            act()
        assert len(self.deciding.ledger) == 0
        return self.picks

    def _at(self, when: float, rank: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, rank, next(self._numbers), act))

    def _scrape(self) -> None:
        """The watch has read every engine's /metrics."""
        for name, engine in self._engines.items():
            limits = self._kinds[name].limits
            capacity = float(limits.blocks * limits.block_size)
            reading = Reading(
                running=engine.running, waiting=engine.waiting, capacity_tokens=capacity,
                prefill_seconds=self._prefill.get(name, 0.0), computed_tokens=self._computed.get(name, 0.0),
            )  # fmt: skip
            self._membership.scraped(Endpoint(name, 8000), [reading], self.now)
        if self._due and self.now:
            self._at(self.now + self._scrape_seconds, SCRAPE, self._scrape)

    def _arrive(self, job: Job) -> None:
        """The client's bytes are in."""
        request = job.request
        self._lens.jobs[request.id] = job
        head = Head(b"POST", PATH, PATH, b"1.1", [(b"Content-Type", b"application/json")], request.id, "p", notes=[])
        body = {"model": "m", "prompt": request.id, "stream": request.stream, "user": request.session}
        exchange = self.traffic.handle(head, orjson.dumps(body), self.now)
        assert isinstance(exchange, Exchange), exchange
        self._exchanges[request.id] = exchange
        name = exchange.decision.replica.name
        ingress = self._kinds[name].ingress
        at = self.now + ingress.seconds + ingress.per_token * request.tokens
        self._at(at, TIMER, lambda: self._submit(job, name))

    def _submit(self, job: Job, name: str) -> None:
        self._exchanges[job.request.id].body_sent()
        keys = keys_of(job, next(self._sent), self._workload.key_tokens)
        asked = EngineRequest(job.request.id, job.request.tokens, job.output_tokens, keys, alone=not job.answer_keys)
        self._engines[name].add(asked, self.now)
        self._want(name)

    def _want(self, name: str) -> None:
        when = self._engines[name].next_event_time()
        if when < float("inf"):
            self._at(when, ENGINE, lambda: self._step(name))

    def _step(self, name: str) -> None:
        """An engine wants to be called: it may have been called since it said so."""
        if self._engines[name].next_event_time() > self.now:
            return
        for milestone in self._engines[name].advance(self.now):
            at = milestone.time + self._kinds[name].ingress.reply
            self._at(at, ANSWER, lambda milestone=milestone: self._answer(milestone))  # type: ignore[misc]
        self._want(name)

    def _answer(self, milestone: Milestone) -> None:
        """The data plane sees a reply's first output, or its end."""
        sequence = milestone.sequence
        name = sequence.request.id
        exchange = self._exchanges[name]
        job = self._lens.jobs[name]
        streaming = job.request.stream
        if not milestone.finished:
            if streaming:
                self._first[name] = self.now
                exchange.replied(200, True, self.now)
                exchange.first_output(self.now)
            return
        usage = {"prompt_tokens": sequence.request.prompt_tokens, "completion_tokens": sequence.request.output_tokens}
        told = {**usage, "prompt_tokens_details": {"cached_tokens": sequence.cached_tokens}}
        if streaming:
            exchange.streamed(sequence.request.output_tokens)
        else:
            exchange.replied(200, False, self.now)
        exchange.tail(b'{"usage":' + orjson.dumps(told) + b"}", streaming)
        exchange.settle(Outcome.COMPLETED, self.now)
        decision = exchange.decision
        where = decision.replica.name
        self._prefill[where] = self._prefill.get(where, 0.0) + (sequence.first_output - sequence.scheduled)
        computed = sequence.request.prompt_tokens - sequence.cached_tokens
        self._computed[where] = self._computed.get(where, 0.0) + computed
        self.picks[name] = Pick(
            decision.replica.name, decision.hit_tokens, decision.best_hit_tokens, decision.predicted_ttft,
            self._first.get(name), self.now,
        )  # fmt: skip
        for follower in self._workload.after(job, self.now):
            self._at(follower.at, TIMER, lambda follower=follower: self._arrive(follower))  # type: ignore[misc]
