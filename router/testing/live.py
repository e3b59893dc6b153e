"""The simulated engine in real time: asyncio's clock drives it, its outputs go to those who wait for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from kvroute.router.core.steptime import StepTime
from kvroute.router.testing.work import Content, Exchange
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest, Sequence
from kvroute.simulator.engine.step import Step
from kvroute.simulator.engine.stepwise import Engine


class LiveEngine:
    """An `Engine` on the running event loop. Steps that a late timer missed are made up for, at their own times."""

    def __init__(self, limits: Limits, model: StepTime, speed: float, on_step: Callable[[Step], None]) -> None:
        self.engine = Engine(limits, model)
        self._speed = speed
        self._on_step = on_step
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    @property
    def now(self) -> float:
        """Engine seconds."""
        return self._loop.time() * self._speed

    def submit(self, request: EngineRequest, exchange: Exchange) -> Sequence:
        """Queue one sequence of an exchange."""
        now = self.now
        self._run(now)
        sequence = self.engine.add(request, now)
        exchange.expect(sequence)
        self._schedule()
        return sequence

    def abort(self, exchange: Exchange) -> None:
        """Drop what is left of an exchange."""
        self._run(self.now)
        for sequence in exchange.sequences:
            self.engine.abort(sequence, self.now)
        self._schedule()

    def pause(self) -> None:
        """Hang all requests."""
        self.engine.pause()
        self._schedule()

    def resume(self) -> None:
        """Let them go on."""
        self.engine.resume(self.now)
        self._schedule()

    def close(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = math.inf
        self.engine.pause()

    def _run(self, now: float) -> None:
        for step in self.engine.advance(now):
            self._on_step(step)
            for output in step.outputs:
                content = output.sequence.request.content
                assert isinstance(content, Content)
                if content.exchange is not None:
                    content.exchange.put(content, output.first, output.tokens, output.finished)

    def _schedule(self) -> None:
        due = self.engine.next_event_time()
        if due == self._due and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = due
        if due < math.inf:
            self._timer = self._loop.call_at(due / self._speed, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._due = math.inf
        self._run(self.now)
        self._schedule()
