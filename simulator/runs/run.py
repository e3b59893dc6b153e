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
from collections.abc import Callable
from heapq import heappop
from typing import TypeAlias

import numpy as np

from kvroute.router.core.decide import Reason
from kvroute.scorers.contract import Request
from kvroute.scorers.plugins import load_policy
from kvroute.simulator.engine.contract import Milestone, Replica
from kvroute.simulator.engine.sequence import Sequence
from kvroute.simulator.runs.engines import Engines
from kvroute.simulator.runs.late import Events, Scrapes, Sharing
from kvroute.simulator.runs.links import Links
from kvroute.simulator.runs.outcome import Outcome, Requests
from kvroute.simulator.runs.pairs import Pair, split
from kvroute.simulator.runs.roster import paired, specs
from kvroute.simulator.runs.router import Router
from kvroute.simulator.runs.sampling import Sampling
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.runs.timers import Timers
from kvroute.simulator.runs.underway import Open, asked
from kvroute.simulator.workloads.bound import Bound
from kvroute.simulator.workloads.contract import Job, Workload

WATCH_EVERY = 16
"""Of so many decisions one is timed."""
REPORT_EVERY = 2048
"""Events between two reports of progress: some hundredths of a second."""
_INF = math.inf

Progress: TypeAlias = Callable[[int, float], None]
"""(requests done, simulated seconds)"""


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
        self._key = workload.key_tokens
        lateness = scenario.lateness
        self._specs = specs(scenario, workload.key_tokens)
        kinds = [kind for _, kind in self._specs]
        exact = lateness.knowledge == "exact"
        self._engines = Engines(kinds, stepwise=scenario.stepwise, watch=exact)
        self._ingress = [kind.ingress for kind in kinds]
        self._routers = [
            Router(self._specs, load_policy(scenario.policy), np.random.default_rng([scenario.seed, number]))
            for number in range(lateness.routers)
        ]
        if exact:
            for router in self._routers:
                router.exact(workload.key_tokens)
        self._spread = np.random.default_rng([scenario.seed, 1 << 20])
        self._timers = Timers()
        self._events = Events(self._routers, lateness, self._timers) if exact else None
        self._sharing: Sharing | None = None
        if lateness.routers > 1 and lateness.share_seconds is not None:
            self._sharing = Sharing(self._routers, lateness.share_seconds, self._timers)
        self._scrapes = Scrapes(self._routers, self._engines.all, lateness)
        self._links = Links(kinds) if paired(scenario) else None
        self._requests = Requests()
        self._sampling = Sampling(self._engines.all)
        self._bound = Bound(workload.key_tokens)
        self._reusable = 0
        self._done = self._refused = self._followed = 0
        self._now = self._ended = 0.0
        self._decision_seconds = 0.0

    # --- the loop ---

    def go(self, progress: Progress | None, stop: Callable[[], bool] | None) -> None:
        """Everything, in order of time."""
        jobs = self._workload.arrivals()
        coming = next(jobs, None)
        engines, timers, scrapes, sampling = self._engines, self._timers, self._scrapes, self._sampling
        replies = [ingress.reply for ingress in self._ingress]
        lines = {reply: deque[tuple[float, Milestone]]() for reply in sorted(set(replies))}
        queues = list(lines.values())
        wanted, expected, due = engines.wanted, engines.due, timers.due
        turns = 0
        while True:
            at = coming.at if coming is not None else _INF
            timer = due[0][0] if due else _INF
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
            if scrapes.next <= now:
                scrapes.take(now)
            if now >= sampling.next:
                sampling.take(now)
            self._now = now
            if engine == now:
                index = wanted[0][1]
                if expected[index] != now:  # it wants to be called at another time since
                    heappop(wanted)
                    continue
                reached = engines.advance(index, now)
                if reached:
                    reply = replies[index]
                    line = lines[reply]
                    for milestone in reached:
                        line.append((milestone[0] + reply, milestone))
                if self._events is not None:
                    self._events.sent(index, engines.all[index].take_changes())
            elif answer == now:
                assert line is not None
                self._answer(line.popleft()[1], now)
            elif timer == now:
                timers.fire()
            else:
                assert coming is not None
                self._arrive(now, coming)
                coming = next(jobs, None)
            turns += 1
            if turns == REPORT_EVERY:
                turns = 0
                if progress is not None:
                    progress(self._done, now)
                if stop is not None and stop():
                    break

    # --- a request's way ---

    def _arrive(self, now: float, job: Job) -> None:
        request, requests = job.request, self._requests
        row = len(requests)
        requests.add(now, request.tokens, job.output_tokens)
        self._reusable += self._bound.add(job)
        routers = self._routers
        router = routers[0] if len(routers) == 1 else routers[int(self._spread.integers(len(routers)))]
        watched = not row % WATCH_EVERY
        begun = time.thread_time() if watched else 0.0
        pair = None if self._links is None else split(router, self._links, request, now)
        decision = router.decide(request, now) if pair is None else pair.prefill
        if watched:
            self._decision_seconds += WATCH_EVERY * (time.thread_time() - begun)
        if isinstance(decision, Reason):
            self._refuse(job, now)
            return
        index = decision.replica.row
        requests.hit[row] = int(decision.hit_tokens)
        requests.best_hit[row] = int(decision.best_hit_tokens)
        if pair is None:
            requests.predicted[row] = decision.predicted_ttft
            requests.replica[row] = index
        else:
            requests.predicted[row] = pair.predicted
            requests.replica[row] = pair.row
            requests.prefill[row] = index
        opened = Open(row, job, router, decision, pair)
        if self._sharing is not None:
            self._sharing.opened(opened, now)
        self._timers.at(self._there(now, index, request), self._submit, opened)

    def _there(self, now: float, index: int, request: Request) -> float:
        """When a request that the router sends `now` is in the engine's queue [s]."""
        ingress = self._ingress[index]
        return now + ingress.seconds + ingress.per_token * request.tokens

    def _refuse(self, job: Job, now: float) -> None:
        """It got an error; who talks goes on talking."""
        self._refused += 1
        self._done += 1
        self._follow(job, now)

    def _submit(self, now: float, opened: Open) -> None:
        """The request has reached its engine."""
        job, pair = opened.job, opened.pair
        index = opened.decision.replica.row
        wanted = asked(opened, self._key) if pair is None else asked(opened, self._key, output=1, keep=True)
        sequence = self._engines.add(index, wanted, now)
        if pair is not None:
            pair.sequence = sequence
        if sequence is None:
            self._settle(opened, now, output=0, cached=0)
            self._refuse(job, now)

    def _answer(self, milestone: Milestone, now: float) -> None:
        """A first or a last token passes the router on its way to the client."""
        sequence = milestone[1]
        opened: Open = sequence.request.content  # type: ignore[assignment]
        pair = opened.pair
        if pair is not None and pair.sequence is sequence:
            if milestone[2]:
                self._hand_over(opened, pair, sequence, now)
        elif milestone[2]:
            self._end(opened, sequence, now)
        else:
            if not opened.job.request.stream:  # it comes with the last one; nobody sees it
                return
            self._requests.first[opened.row] = now
            if pair is None:
                opened.router.first_output(opened.decision, now)
            else:
                opened.router.deciding.others.prefilled(pair.decode, now)
            if self._sharing is not None:
                self._sharing.prefilled(opened, now)

    def _end(self, opened: Open, sequence: Sequence, now: float) -> None:
        requests, row, job = self._requests, opened.row, opened.job
        requests.ended[row] = self._ended = now
        if opened.pair is None:
            requests.scheduled[row] = sequence.scheduled
            requests.cached[row] = sequence.cached_tokens
            self._prefilled(opened.decision.replica.row, sequence)
        requests.preemptions[row] += sequence.preemptions
        self._settle(opened, now, job.output_tokens, sequence.cached_tokens)
        self._done += 1
        self._follow(job, now)

    def _prefilled(self, row: int, sequence: Sequence) -> None:
        computed = sequence.request.prompt_tokens - sequence.cached_tokens
        self._scrapes.finished(row, sequence.first_output - sequence.scheduled, computed)

    def _settle(self, opened: Open, now: float, output: int, cached: int) -> None:
        """It is over at the replica that was to answer; `output` 0: it was refused."""
        request, router, pair = opened.job.request, opened.router, opened.pair
        if pair is not None:
            deciding = router.deciding
            deciding.others.settle(pair.decode, now, completed=output > 0, output_tokens=output)
            if output:
                deciding.estimate.output(pair.decode.replica, output)
            router.deciding.settle(pair.request, pair.prefill, now, completed=False)  # unless it was before
        elif output:
            router.answered(request, opened.decision, cached, output, now)
        else:
            router.deciding.settle(request, opened.decision, now, completed=False)
        if self._sharing is not None:
            self._sharing.settled(opened, output, now)

    # --- prefill on one replica, decode on another ---

    def _hand_over(self, opened: Open, pair: Pair, sequence: Sequence, now: float) -> None:
        """The prefill's reply is in: the decode replica is asked, and fetches the KV."""
        assert self._links is not None
        requests, row = self._requests, opened.row
        requests.scheduled[row] = sequence.scheduled
        requests.cached[row] = sequence.cached_tokens
        requests.preemptions[row] = sequence.preemptions
        self._prefilled(pair.source, sequence)
        opened.router.answered(pair.request, pair.prefill, sequence.cached_tokens, 0, now)
        there = self._there(now, pair.row, opened.job.request)
        arrived = self._links.send(pair.source, pair.row, pair.tokens, there)
        self._timers.at(there, self._submit_decode, opened, pair, arrived)
        self._timers.at(arrived, self._fetched, pair, sequence)

    def _submit_decode(self, now: float, opened: Open, pair: Pair, arrived: float) -> None:
        wanted = asked(opened, self._key, remote=opened.job.request.tokens, ready=arrived)
        if self._engines.add(pair.row, wanted, now) is None:
            self._settle(opened, now, output=0, cached=0)
            self._refuse(opened.job, now)

    def _fetched(self, now: float, pair: Pair, sequence: Sequence) -> None:
        """The prefill replica need not keep the KV any longer."""
        self._engines.release(pair.source, sequence, now)
        pair.sequence = None  # it refers to what refers to the pair

    def _follow(self, job: Job, now: float) -> None:
        for next_job in self._workload.after(job, now):
            self._followed += 1
            self._timers.at(next_job.at, self._arrive, next_job)

    # --- what came of it ---

    @property
    def engines(self) -> list[Replica]:
        """One a replica."""
        return self._engines.all

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
            totals=[engine.totals for engine in self._engines.all],
            gaps=self._engines.gaps,
            reusable_tokens=self._reusable,
            refused=self._refused,
            unfinished=len(requests) - self._done,
            followed=self._followed,
            seconds=self._ended,
            decision_seconds=self._decision_seconds,
            cpu_seconds=cpu_seconds,
        )
