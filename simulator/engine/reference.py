"""The step-by-step engine as a replica of a run: slow, and what the closed form is measured by."""

from __future__ import annotations

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.contract import Changed, Milestone
from kvroute.simulator.engine.gaps import Gaps
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest, Sequence
from kvroute.simulator.engine.step import Step
from kvroute.simulator.engine.stepwise import Engine
from kvroute.simulator.engine.totals import Totals


class Reference:
    """One replica, every step of which is computed."""

    def __init__(self, limits: Limits, step: StepTime, watch: bool = False, gaps: Gaps | None = None) -> None:
        """`watch`: keep the changes of the cache for `take_changes`. `gaps`: where inter-token times are counted."""
        self.engine = Engine(limits, step)
        self.gaps = Gaps() if gaps is None else gaps
        self._watch = watch
        self._changed: list[Changed] = []
        self._last_output: dict[Sequence, float] = {}

    @property
    def totals(self) -> Totals:
        """Counters since start."""
        return self.engine.totals

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self.engine.running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self.engine.waiting) + len(self.engine.coming)

    def kv_usage_at(self, now: float) -> float:
        """The same: every step's blocks are taken when it begins."""
        return self.engine.kv_usage

    @property
    def kv_usage(self) -> float:
        """Share of the blocks that running requests hold [0..1]."""
        return self.engine.kv_usage

    def add(self, request: EngineRequest, now: float) -> Sequence:
        """Queue a request.

        Raises:
            ValueError: it is empty, or could never fit into the cache.
        """
        return self.engine.add(request, now)

    def abort(self, sequence: Sequence, now: float) -> None:
        """Drop a sequence at once: its blocks are free, its slot is free. The step under way is not shortened."""
        self._last_output.pop(sequence, None)
        self.engine.abort(sequence, now)

    def release(self, sequence: Sequence, now: float) -> None:
        """Let go of the blocks that a finished sequence was to keep. A second call changes nothing."""
        self.engine.release(sequence, now)

    def next_event_time(self) -> float:
        """When `advance` has something to do; inf when idle."""
        return self.engine.next_event_time()

    def advance(self, now: float) -> list[Milestone]:
        """Run until `now`: the milestones reached by then, in order of time, then of the running batch."""
        done: list[Milestone] = []
        for step in self.engine.advance(now):
            self._keep(step, done)
        return done

    def take_changes(self) -> list[Changed]:
        """The cache's changes since the last call, in order; empty unless it was made to watch its cache."""
        changed, self._changed = self._changed, []
        return changed

    def _keep(self, step: Step, done: list[Milestone]) -> None:
        if self._watch and step.changes:
            self._changed.append(Changed(step.end, step.changes))
        last_output = self._last_output
        for output in step.outputs:
            sequence = output.sequence
            if output.first == 0:
                done.append(Milestone(step.end, sequence, False))
            else:
                gap = step.end - last_output[sequence]
                self.gaps.observe(gap, gap, 1, 1)
            last_output[sequence] = step.end
            if output.finished:
                del last_output[sequence]
                done.append(Milestone(step.end, sequence, True))
