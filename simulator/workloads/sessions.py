"""Sessions: turns that wait for the answers before them, in a closed loop with think times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from typing import Protocol

import msgspec

from kvroute.scorers.contract import Request
from kvroute.simulator.workloads.contract import Job
from kvroute.simulator.workloads.keys import anchor


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One request of a session, and what it waits for."""

    tokens: int
    """Of its prompt."""
    output_tokens: int
    think: float
    """From the end of what it waits for until it is sent [s]."""
    waits: int
    """Turns that must have been answered before; 0: it begins the session."""
    then: tuple[int, ...]
    """Turns that wait for this one."""


class Plan(Protocol):
    """One session. Its turns are planned; only their times depend on the fleet."""

    session: str
    turns: Sequence[Turn]

    def prompt(self, index: int) -> list[int]:
        """Keys of that turn's prompt. Turns are asked for in an order in which each comes after those it waits for."""
        ...

    def answer(self, index: int) -> Sequence[int]:
        """Keys of the further full blocks that its answer completes; asked for after its prompt."""
        ...


class _Running:
    __slots__ = ("left", "plan", "tag", "waits")

    def __init__(self, plan: Plan, tag: str) -> None:
        self.plan = plan
        self.tag = tag
        self.left = len(plan.turns)
        self.waits = [turn.waits for turn in plan.turns]


class Sessions:
    """Sessions that start at given times, or so many at once, each of the next when one has ended. Session and turn
    name a request, so that its content is the same whatever the fleet does."""

    def __init__(
        self,
        name: str,
        key_tokens: int,
        plans: Callable[[], Iterator[Plan]],
        starts: Callable[[], Iterator[float]],
        at_once: int | None = None,
        tag: str = "",
    ) -> None:
        """`plans` and `starts` begin anew at each call; with `at_once`, `starts` is not asked. `tag` begins all ids."""
        self.name = name
        self.key_tokens = key_tokens
        self._new_plans = plans
        self._new_starts = starts
        self._at_once = at_once
        self._tag = tag
        self._plans: Iterator[Plan] = iter(())
        self._begun = 0
        self._open: dict[str, tuple[_Running, int]] = {}

    def arrivals(self) -> Iterator[Job]:
        """The first turns of the sessions that start by themselves."""
        self._plans = self._new_plans()
        self._begun = 0
        self._open = {}
        at_once = self._at_once
        starts = self._new_starts() if at_once is None else repeat(0.0)
        for plan in islice(self._plans, at_once):
            yield from self._start(plan, next(starts))

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """The turns that waited for this one last; a session's end may start another."""
        running, index = self._open.pop(job.request.id)
        running.left -= 1
        turns, waits = running.plan.turns, running.waits
        following = []
        for then in turns[index].then:
            waits[then] -= 1
            if waits[then] == 0:
                following.append(self._job(running, then, now + turns[then].think))
        if running.left == 0 and self._at_once is not None:
            for plan in islice(self._plans, 1):
                following += self._start(plan, now)
        return following

    def _start(self, plan: Plan, at: float) -> list[Job]:
        running = _Running(plan, f"{self._tag}{self._begun}.")
        self._begun += 1
        return [self._job(running, index, at + turn.think) for index, turn in enumerate(plan.turns) if turn.waits == 0]

    def _job(self, running: _Running, index: int, at: float) -> Job:
        plan = running.plan
        turn = plan.turns[index]
        request_id = f"{running.tag}{index}"
        self._open[request_id] = (running, index)
        keys = plan.prompt(index)
        request = Request(
            request_id, "m", turn.tokens, keys, self.key_tokens, None, plan.session,
            anchor(keys[0] if keys else -self._begun), 0, 1, True,
        )  # fmt: skip
        return Job(at, request, turn.output_tokens, plan.answer(index))
