"""A recorded run played again, one step after the other.

The engine of `vllm serve` schedules ahead (`async_scheduling`): step k+2 is put together when the outputs of step k are
known, while step k+1 runs. So a request that arrives during step k+1 waits for its end and for step k+2, and the slot
of one that ends in step k is filled in step k+2. `depth` 2 is that, `depth` 1 the engine that waits for each step.

Equal decode steps are taken together; what they would have done one by one is the same, but for which block is which.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.fidelity.ahead import Ahead, Member, Plan

Coefficients = tuple[float, float, float, float, float, float]
"""c0..c4 of the step time, and c5: what a KV token costs more in a step that also prefills."""
SCHEDULED, FIRST, LAST = 0, 1, 2
"""What may be recorded of a request."""
Observed = Mapping[tuple[int, int], float]
"""(request, what of it) -> recorded time [s]."""


class Stretch(NamedTuple):
    """One step, or several equal decode steps: when, and what there was to do (the factors of c0..c5)."""

    start: float
    end: float
    work: Coefficients
    """Steps, sequences, KV tokens read, prompt tokens, attention, KV tokens read next to a prefill; summed."""
    observed: bool
    """Its end is a recorded one."""
    idle: bool
    """Nothing ran before it: it starts when its first request came."""
    running: int
    waiting: int


class Played(NamedTuple):
    """What a rehearsal gives, a number a request in the order of arrival [s]."""

    scheduled: list[float]
    first: list[float]
    last: list[float]
    stretches: list[Stretch]
    preemptions: int
    hit_tokens: int


class Rehearsal(NamedTuple):
    """One run, and how its engine schedules."""

    requests: Sequence[EngineRequest]
    arrivals: Sequence[float]
    """When each request reaches the engine [s], ascending."""
    limits: Limits
    depth: int = 2
    cached: Sequence[int] | None = None
    """Tokens that each is known to have found in the cache; None: the cache decides, by the requests' keys."""

    def play(self, step: Coefficients, observed: Observed | None = None) -> Played:
        """From the first arrival to the last token, under this step time; the clock is set to what was `observed`."""
        return _Play(self, step, observed or {}).run()


class _Flight(NamedTuple):
    """A step, or several, put together and not ended."""

    outputs: list[Member]
    """Those that give their first or last token at its end."""
    work: Coefficients
    at: float
    """When it was put together."""
    idle: bool
    lead: float
    """Seconds until the last of several begins; 0 for one."""


class _Play:
    def __init__(self, given: Rehearsal, step: Coefficients, observed: Observed) -> None:
        count = len(given.requests)
        self.given = given
        self.step = step
        self.observed = observed
        self.scheduler = Ahead(given.limits)
        self.flights: deque[_Flight] = deque()
        self.scheduled, self.first, self.last = [0.0] * count, [-math.inf] * count, [0.0] * count
        self.stretches: list[Stretch] = []
        self.now = self.free = given.arrivals[0] if count else 0.0
        self.seen = -math.inf
        self.next = 0

    def run(self) -> Played:
        arrivals, depth = self.given.arrivals, self.given.depth
        while True:
            self._arrive()
            if self._launch() and len(self.flights) < depth:
                continue
            if self.flights:
                self._land(self.flights.popleft())
                if self.flights:
                    self.now = max(self.now, self.free + self.flights[0].lead)
            elif self.next < len(arrivals):
                self.now = max(self.now, arrivals[self.next])
            else:
                break
        scheduler = self.scheduler
        return Played(
            self.scheduled, self.first, self.last, self.stretches, scheduler.preemptions, scheduler.hit_tokens
        )

    def _arrive(self) -> None:
        arrivals, requests = self.given.arrivals, self.given.requests
        while self.next < len(arrivals) and arrivals[self.next] <= self.now:
            cached = None if self.given.cached is None else self.given.cached[self.next]
            self.scheduler.waiting.append(Member(self.next, requests[self.next], cached))
            self.next += 1

    def _launch(self) -> bool:
        """Put together the next step; False where there is nothing to do, or no room for it."""
        scheduler = self.scheduler
        if not scheduler.running and not scheduler.waiting:
            return False
        idle = not self.flights and (self.now > self.free or not self.stretches)
        steps = self._together()
        if steps > 1:
            self.flights.append(self._several(steps, idle))
            return True
        plan = scheduler.plan(self.now)
        if plan and self.observed:
            self._set_by(plan)
        if plan:
            self.flights.append(self._one(plan, idle))
        return bool(plan)

    def _one(self, plan: Plan, idle: bool) -> _Flight:
        """Count the step's tokens as computed: the next step is put together before they are seen."""
        kv_tokens = prefill = 0
        attention = 0.0
        outputs: list[Member] = []
        for member, count in plan:
            if member.decoding:
                kv_tokens += member.computed
            else:
                prefill += count
                attention += count * (member.computed + 0.5 * count)
            member.computed += count
            if member.computed == member.prompt + member.generated:
                member.generated += 1
                if member.generated == 1 or member.generated == member.outputs:
                    outputs.append(member)
        mixed = float(kv_tokens) if prefill else 0.0
        work = (1.0, float(len(plan)), float(kv_tokens), float(prefill), attention, mixed)
        return _Flight(outputs, work, self.now, idle, 0.0)

    def _set_by(self, plan: Plan) -> None:
        """Whom the plan takes in was recorded as scheduled: that is when the step before ended."""
        last = self.stretches[-1] if self.stretches else None
        if last is None or last.observed or last.end != self.now:
            return
        for member, _ in plan:
            if member.scheduled == self.now and not member.preempted:
                told = self.observed.get((member.index, SCHEDULED))
                if told is not None and told > self.seen:
                    self.stretches[-1] = last._replace(end=told, observed=True)
                    self.now = self.free = self.seen = told
                    return

    def _together(self) -> int:
        """Equal decode steps to take at once; 0 where something may come between."""
        scheduler = self.scheduler
        if any(flight.outputs for flight in self.flights):
            return 0
        if len(scheduler.running) > scheduler.limits.max_num_batched_tokens:
            return 0
        steps = scheduler.decode_steps()
        if steps < 2 or scheduler.admits():
            return 0
        blocked = bool(scheduler.waiting) or len(scheduler.running) >= scheduler.limits.max_num_seqs
        if blocked or self.next >= len(self.given.arrivals):
            return steps
        return self._until(self.given.arrivals[self.next], steps)

    def _until(self, arrival: float, most: int) -> int:
        """Steps that are put together before `arrival`: each at the end of the last but one, or of the last."""
        batch = len(self.scheduler.running)
        kv_tokens = sum(member.computed for member in self.scheduler.running)
        c0, c1, c2 = self.step[:3]
        at = self.now
        end = self.free + sum(seconds(self.step, flight.work) for flight in self.flights) if self.flights else self.now
        taken = 0
        while taken < most and at < arrival:
            start = end
            end += c0 + c1 * batch + c2 * kv_tokens
            at = start if self.given.depth > 1 else end
            kv_tokens += batch
            taken += 1
        return taken

    def _several(self, steps: int, idle: bool) -> _Flight:
        running = self.scheduler.running
        batch = len(running)
        kv_tokens = sum(member.computed for member in running)
        work, most = _decoding(steps, batch, kv_tokens), _decoding(steps - 1, batch, kv_tokens)
        self.scheduler.decode(steps)
        lead = seconds(self.step, most) if self.given.depth > 1 else 0.0
        return _Flight([m for m in running if m.generated == m.outputs], work, self.now, idle, lead)

    def _land(self, flight: _Flight) -> None:
        """The step ends: set the clock, and tell who gave what."""
        start = flight.at if flight.idle else self.free
        end = start + seconds(self.step, flight.work)
        told = self._told(flight)
        if told is not None:
            end = self.seen = told
        scheduler = self.scheduler
        running, waiting = len(scheduler.running), len(scheduler.waiting)
        self.stretches.append(Stretch(start, end, flight.work, told is not None, flight.idle, running, waiting))
        self.free = end
        self.now = end if told is not None else max(self.now, end)
        for member in flight.outputs:
            if self.first[member.index] == -math.inf:
                self.first[member.index] = end
                self.scheduled[member.index] = member.scheduled
            if member.generated == member.outputs:
                self.last[member.index] = end
                scheduler.leave(member)

    def _told(self, flight: _Flight) -> float | None:
        """The recorded end of this step, if one of its outputs was recorded and time does not run backwards."""
        found: float | None = None
        if self.observed:
            for member in flight.outputs:
                if self.first[member.index] == -math.inf:
                    found = self.observed.get((member.index, FIRST), found)
                if member.generated == member.outputs:
                    found = self.observed.get((member.index, LAST), found)
        return found if found is not None and found > self.seen else None


def _decoding(steps: int, batch: int, kv_tokens: int) -> Coefficients:
    """The work of `steps` decode steps, the first of which reads `kv_tokens`."""
    read = steps * kv_tokens + batch * (steps * (steps - 1) // 2)
    return (float(steps), float(steps * batch), float(read), 0.0, 0.0, 0.0)


def seconds(step: Coefficients, work: Coefficients) -> float:
    """How long that work takes [s]."""
    return (
        step[0] * work[0]
        + step[1] * work[1]
        + step[2] * work[2]
        + step[3] * work[3]
        + step[4] * work[4]
        + step[5] * work[5]
    )
