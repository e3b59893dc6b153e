"""One run: jobs arrive, the router decides, engines compute, answers come back. One clock, one queue of what is due.

Each source of events is in order of time by itself: arrivals, engines (a heap of when each wants to be called), answers
on their way back (a constant time behind their step), and timers for all else. At equal times engines come first, then
answers, then timers, then arrivals: a decision sees all that has happened, and nothing that has not.
"""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import TypeAlias

import msgspec
import numpy as np

from kvroute.router.core.decide import Decision, Reason
from kvroute.router.core.ledger import Lease
from kvroute.router.core.replica import Spec
from kvroute.scorers.plugins import load_policy
from kvroute.simulator.engine.closed import ClosedForm
from kvroute.simulator.engine.contract import Milestone, Replica
from kvroute.simulator.engine.gaps import Gaps
from kvroute.simulator.engine.reference import Reference
from kvroute.simulator.engine.sequence import EngineRequest, Sequence
from kvroute.simulator.engine.step import Change
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.runs.outcome import Outcome, Requests
from kvroute.simulator.runs.router import Router
from kvroute.simulator.runs.sampling import Sampling
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.workloads.bound import Bound
from kvroute.simulator.workloads.contract import Job, Workload

MODEL = "m"
REPORT_EVERY = 512
"""Requests between two reports of progress."""
_INF = math.inf
_NAN = math.nan

Progress: TypeAlias = Callable[[int, float], None]
"""(requests done, simulated seconds)"""


class Open:
    """A request under way."""

    __slots__ = ("decision", "foreign", "job", "router", "row")

    def __init__(self, row: int, job: Job, router: Router, decision: Decision) -> None:
        self.row = row
        self.job = job
        self.router = router
        self.decision = decision
        self.foreign: list[tuple[Router, Lease]] = []
        """What other routers have been told of it."""


def simulate(
    workload: Workload,
    scenario: Scenario,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Run a workload against a scenario until the last answer.

    `progress` is told now and then; when `stop` says so the run ends early, and what is under way counts as unfinished.

    Raises:
        FleetError: the fleet cannot run this workload.
        PluginError: the policy cannot be loaded.
    """
    run = Run(workload, scenario)
    begun = time.process_time()
    # Nothing here refers to itself, so counting references frees all of it; looking for cycles costs a tenth.
    collecting = gc.isenabled()
    gc.disable()
    try:
        run.go(progress, stop)
    finally:
        if collecting:
            gc.enable()
    return run.outcome(time.process_time() - begun)


class Run:
    """The state of one run."""

    def __init__(self, workload: Workload, scenario: Scenario) -> None:
        self._workload = workload
        lateness = scenario.lateness
        kinds = _ranks(scenario.replicas, workload.key_tokens)
        if not kinds:
            raise FleetError("a fleet needs at least one replica")
        self._specs = [(_spec(name, kind), kind) for name, kind in kinds]
        self._exact = lateness.knowledge == "exact"
        make = Reference if scenario.stepwise else ClosedForm
        self._gaps = Gaps()
        self._engines: list[Replica] = [
            make(kind.limits, kind.step, watch=self._exact, gaps=self._gaps) for _, kind in self._specs
        ]
        self._ingress = [kind.ingress for _, kind in self._specs]
        self._due = [_INF] * len(self._engines)
        self._wanted: list[tuple[float, int]] = []
        self._timers: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._timed = 0
        self._lateness = lateness
        self._routers = [
            Router(self._specs, load_policy(scenario.policy), np.random.default_rng([scenario.seed, number]))
            for number in range(lateness.routers)
        ]
        if self._exact:
            for router in self._routers:
                router.exact(workload.key_tokens)
        several = lateness.routers > 1
        self._share = lateness.share_seconds if several else None
        self._next_scrape = lateness.scrape_seconds if several and self._share is None else _INF
        self._spread = np.random.default_rng([scenario.seed, 1 << 20])
        self._later: list[tuple[float, int, Job]] = []
        self._requests = Requests()
        self._sampling = Sampling(self._engines)
        self._bound = Bound(workload.key_tokens)
        self._reusable = 0
        self._done = self._refused = 0
        self._now = 0.0
        self._decision_seconds = 0.0

    # --- the loop ---

    def go(self, progress: Progress | None, stop: Callable[[], bool] | None) -> None:
        """Everything, in order of time."""
        jobs = self._workload.arrivals()
        coming = self._next_job(jobs)
        wanted, timers = self._wanted, self._timers
        replies = [ingress.reply for ingress in self._ingress]
        lines = {reply: deque[tuple[float, Milestone]]() for reply in sorted(set(replies))}
        line_of = [lines[reply] for reply in replies]
        queues = list(lines.values())
        due, engines, sampling = self._due, self._engines, self._sampling
        told = 0
        while True:
            at = coming.at if coming is not None else _INF
            timer = timers[0][0] if timers else _INF
            answer, line = _INF, None
            for queue in queues:
                if queue and queue[0][0] < answer:
                    answer, line = queue[0][0], queue
            engine = wanted[0][0] if wanted else _INF
            now = engine
            if answer < now:
                now = answer
            if timer < now:
                now = timer
            if at < now:
                now = at
            if now == _INF:
                break
            while self._next_scrape <= now:
                self._scrape()
            if now >= sampling.next:
                sampling.take(now)
            self._now = now
            if engine == now:
                _, index = heappop(wanted)
                if due[index] == now:
                    reply = replies[index]
                    for milestone in engines[index].advance(now):
                        line_of[index].append((milestone[0] + reply, milestone))
                    if self._exact:
                        self._tell(index)
                    self._want(index)
            elif answer == now:
                assert line is not None
                self._answer(line.popleft()[1], now)
            elif timer == now:
                _, _, act, arguments = heappop(timers)
                act(*arguments)
            else:
                assert coming is not None
                self._arrive(coming, now)
                coming = self._next_job(jobs)
            if self._done - told >= REPORT_EVERY:
                told = self._done
                if progress is not None:
                    progress(told, now)
                if stop is not None and stop():
                    break

    def _next_job(self, jobs: Iterator[Job]) -> Job | None:
        """The next that comes by itself; those that follow from answers come through timers."""
        return next(jobs, None)

    def _at(self, when: float, act: Callable[..., None], *arguments: object) -> None:
        self._timed += 1
        heappush(self._timers, (when, self._timed, act, arguments))

    def _want(self, index: int) -> None:
        """An engine was changed: when does it want to be called?"""
        when = self._engines[index].next_event_time()
        if when != self._due[index]:
            self._due[index] = when
            if when < _INF:
                heappush(self._wanted, (when, index))

    # --- a request's way ---

    def _arrive(self, job: Job, now: float) -> None:
        request, requests = job.request, self._requests
        row = len(requests)
        requests.add(now, request.tokens, job.output_tokens)
        self._reusable += self._bound.add(job)
        routers = self._routers
        router = routers[0] if len(routers) == 1 else routers[int(self._spread.integers(len(routers)))]
        begun = time.perf_counter()
        decision = router.decide(request, now)
        self._decision_seconds += time.perf_counter() - begun
        if isinstance(decision, Reason):
            self._refuse(job, now)
            return
        index = decision.replica.row
        requests.hit[row] = int(decision.hit_tokens)
        requests.best_hit[row] = int(decision.best_hit_tokens)
        requests.predicted[row] = decision.predicted_ttft
        requests.replica[row] = index
        ingress = self._ingress[index]
        opened = Open(row, job, router, decision)
        if self._share is not None:
            self._at(now + self._share, self._share_opened, opened)
        self._at(now + ingress.seconds + ingress.per_token * request.tokens, self._submit, opened)

    def _refuse(self, job: Job, now: float) -> None:
        """It got an error; who talks goes on talking."""
        self._refused += 1
        self._done += 1
        self._follow(job, now)

    def _submit(self, opened: Open) -> None:
        """The request has reached its engine."""
        now, job = self._now, opened.job
        index = opened.decision.replica.row
        request = job.request
        keys = request.keys if not job.answer_keys else [*request.keys, *job.answer_keys]
        engine = self._engines[index]
        asked = EngineRequest(request.id, request.tokens, job.output_tokens, keys, content=opened)
        try:
            engine.add(asked, now)
        except ValueError:  # it could never fit: the engine answers 400
            opened.router.deciding.settle(request, opened.decision, now, completed=False)
            if self._share is not None:
                self._at(now + self._share, self._share_settled, opened, 0)
            self._refuse(job, now)
            return
        self._want(index)

    def _answer(self, milestone: Milestone, now: float) -> None:
        """A first or a last token passes the router on its way to the client."""
        sequence = milestone[1]
        opened: Open = sequence.request.content  # type: ignore[assignment]
        if not milestone[2]:
            self._requests.first[opened.row] = now
            if not opened.job.request.stream:  # no router sees it pass
                return
            opened.router.first_output(opened.decision, now)
            if self._share is not None:
                self._at(now + self._share, self._share_prefilled, opened)
            return
        self._end(opened, sequence, now)

    def _end(self, opened: Open, sequence: Sequence, now: float) -> None:
        requests, row, job = self._requests, opened.row, opened.job
        requests.ended[row] = now
        requests.scheduled[row] = sequence.scheduled
        requests.cached[row] = sequence.cached_tokens
        requests.preemptions[row] = sequence.preemptions
        opened.router.answered(job.request, opened.decision, sequence.cached_tokens, job.output_tokens, now)
        if self._share is not None:
            self._at(now + self._share, self._share_settled, opened, job.output_tokens)
        self._done += 1
        self._follow(job, now)

    def _follow(self, job: Job, now: float) -> None:
        for next_job in self._workload.after(job, now):
            self._at(next_job.at, self._come, next_job)

    def _come(self, job: Job) -> None:
        self._arrive(job, self._now)

    # --- what the router hears late ---

    def _tell(self, index: int) -> None:
        """KV events of the steps that have ended are on their way."""
        for changed in self._engines[index].take_changes():
            self._at(changed.time + self._lateness.event_seconds, self._hear, index, changed.changes)

    def _hear(self, index: int, changes: list[Change]) -> None:
        for router in self._routers:
            router.heard(index, changes, self._now)

    def _scrape(self) -> None:
        """Every router reads every replica's metrics. One router's own ledger knows all that they would show."""
        self._next_scrape += self._lateness.scrape_seconds
        for index, engine in enumerate(self._engines):
            for router in self._routers:
                router.scraped(index, engine.running, engine.waiting)

    def _share_opened(self, opened: Open) -> None:
        decision, request = opened.decision, opened.job.request
        for router in self._routers:
            if router is not opened.router:
                lease = router.foreign(
                    request, decision.replica.row, decision.hit_tokens, decision.predicted_ttft, self._now
                )
                opened.foreign.append((router, lease))

    def _share_prefilled(self, opened: Open) -> None:
        for router, lease in opened.foreign:
            router.deciding.others.prefilled(lease, self._now)

    def _share_settled(self, opened: Open, output: int) -> None:
        for router, lease in opened.foreign:
            router.deciding.others.settle(lease, self._now, completed=output > 0, output_tokens=output)

    # --- what came of it ---

    def open_leases(self) -> list[int]:
        """Leases not yet settled, per router: of its own, and of others."""
        return [len(ledger) for router in self._routers for ledger in (router.deciding.ledger, router.deciding.others)]

    def outcome(self, cpu_seconds: float) -> Outcome:
        """What is known now."""
        requests = self._requests
        return Outcome(
            workload=self._workload.name,
            key_tokens=self._workload.key_tokens,
            names=[spec.name for spec, _ in self._specs],
            requests=requests,
            samples=self._sampling.samples,
            totals=[engine.totals for engine in self._engines],
            gaps=self._gaps,
            reusable_tokens=self._reusable,
            refused=self._refused,
            unfinished=len(requests) - self._done,
            seconds=self._now,
            decision_seconds=self._decision_seconds,
            cpu_seconds=cpu_seconds,
        )


def _ranks(replicas: tuple[Kind, ...], key_tokens: int) -> list[tuple[str, Kind]]:
    """Name and kind of each replica: an endpoint's ranks are replicas of their own."""
    found = []
    for number, kind in enumerate(replicas):
        limits = kind.limits
        if key_tokens % limits.block_size:
            raise FleetError(
                f"the workload's keys stand for {key_tokens} tokens, which is no multiple of the block size"
                f" {limits.block_size} of {kind.name}"
            )
        own = msgspec.structs.replace(kind, limits=msgspec.structs.replace(limits, key_tokens=key_tokens))
        name = f"replica-{number}"
        found += [(name if kind.ranks == 1 else f"{name}/{rank}", own) for rank in range(kind.ranks)]
    return found


def _spec(name: str, kind: Kind) -> Spec:
    return Spec(
        name=name, endpoint=name.partition("/")[0], models=(MODEL,), role=kind.role,
        slots=float(kind.limits.max_num_seqs),
    )  # fmt: skip
