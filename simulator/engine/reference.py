"""The step-by-step engine behind the contract that runs ask for."""

from __future__ import annotations

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.contract import Changed, Milestone
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest, Sequence
from kvroute.simulator.engine.stepwise import Engine
from kvroute.simulator.engine.totals import Totals


class Reference:
    """Implements `contract.Replica`, one step at a time."""

    def __init__(self, limits: Limits, step: StepTime, watch: bool = False) -> None:
        self._engine = Engine(limits, step)
        self._watch = watch
        self._changed: list[Changed] = []

    @property
    def totals(self) -> Totals:
        """Counters since start."""
        return self._engine.totals

    def add(self, request: EngineRequest, now: float) -> Sequence:
        """Queue a request."""
        return self._engine.add(request, now)

    def abort(self, sequence: Sequence, now: float) -> None:
        """Drop a sequence at once."""
        self._engine.abort(sequence, now)

    def next_event_time(self) -> float:
        """When the step under way ends, or the next starts."""
        return self._engine.next_event_time()

    def advance(self, now: float) -> list[Milestone]:
        """The milestones reached by `now`."""
        found: list[Milestone] = []
        for step in self._engine.advance(now):
            if self._watch and step.changes:
                self._changed.append(Changed(step.end, step.changes))
            for output in step.outputs:
                if output.first == 0:
                    found.append(Milestone(step.end, output.sequence, False))
                if output.finished:
                    found.append(Milestone(step.end, output.sequence, True))
        return found

    def take_changes(self) -> list[Changed]:
        """The cache's changes since the last call."""
        changed, self._changed = self._changed, []
        return changed

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._engine.running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._engine.waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the blocks that running requests hold."""
        return self._engine.kv_usage
