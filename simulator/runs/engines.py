"""The engines of a run, in the order in which they want to be called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush, heapreplace

from kvroute.simulator.engine.closed import ClosedForm
from kvroute.simulator.engine.contract import Milestone, Replica
from kvroute.simulator.engine.gaps import Gaps
from kvroute.simulator.engine.reference import Reference
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.engine.sequence import Sequence as Sequenced
from kvroute.simulator.latency.kind import Kind


class Engines:
    """One engine a replica, by its index."""

    __slots__ = ("all", "due", "gaps", "wanted")

    def __init__(self, kinds: Sequence[Kind], *, stepwise: bool, watch: bool) -> None:
        """`stepwise`: compute every step. `watch`: keep the changes of their caches."""
        make = Reference if stepwise else ClosedForm
        self.gaps = Gaps()
        """Inter-token times of all of them."""
        self.all: list[Replica] = [make(kind.limits, kind.step, watch=watch, gaps=self.gaps) for kind in kinds]
        self.due = [math.inf] * len(self.all)
        """When each wants to be called."""
        self.wanted: list[tuple[float, int]] = []
        """A heap of (when, index); an entry whose time the engine no longer wants is passed over."""

    def advance(self, index: int, now: float) -> list[Milestone]:
        """Let the engine on top of the heap run until `now`, which is when it wants to: what it has reached."""
        engine = self.all[index]
        reached = engine.advance(now)
        self.due[index] = when = engine.next_event_time()
        if when < math.inf:
            heapreplace(self.wanted, (when, index))
        else:
            heappop(self.wanted)
        return reached

    def add(self, index: int, request: EngineRequest, now: float) -> Sequenced | None:
        """Queue a request; None where it could never fit, which an engine answers with 400."""
        try:
            sequence = self.all[index].add(request, now)
        except ValueError:
            return None
        self._want(index)
        return sequence

    def release(self, index: int, sequence: Sequenced, now: float) -> None:
        """The blocks that a finished prefill kept are free."""
        self.all[index].release(sequence, now)
        self._want(index)

    def _want(self, index: int) -> None:
        when = self.all[index].next_event_time()
        if when != self.due[index]:
            self.due[index] = when
            if when < math.inf:
                heappush(self.wanted, (when, index))
