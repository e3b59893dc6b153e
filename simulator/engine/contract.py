"""What a run asks of a simulated replica, whether it computes step by step or in closed form."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kvroute.simulator.engine.sequence import EngineRequest, Sequence
from kvroute.simulator.engine.step import Change
from kvroute.simulator.engine.totals import Totals


class Milestone(NamedTuple):
    """A sequence has given its first output token, or its last. One of a single token gives two of these."""

    time: float
    """End of the step that brought it [s]."""
    sequence: Sequence
    finished: bool
    """False: the first token; True: the last."""


class Changed(NamedTuple):
    """What one step did to the cache, visible from `time` on."""

    time: float
    changes: list[Change]


class Replica(Protocol):
    """One replica. The caller owns the clock: `add` and `abort` act at a `now` that it has been advanced to."""

    @property
    def totals(self) -> Totals:
        """Counters since start."""
        ...

    def add(self, request: EngineRequest, now: float) -> Sequence:
        """Queue a request.

        Raises:
            ValueError: it is empty, or could never fit into the cache.
        """
        ...

    def abort(self, sequence: Sequence, now: float) -> None:
        """Drop a sequence at once: its blocks are free, its slot is free. The step under way is not shortened."""
        ...

    def release(self, sequence: Sequence, now: float) -> None:
        """Let go of the blocks that a finished sequence was to keep. A second call changes nothing."""
        ...

    def next_event_time(self) -> float:
        """When `advance` has something to do; inf when idle."""
        ...

    def advance(self, now: float) -> list[Milestone]:
        """Run until `now`: the milestones reached by then, in order of time, then of the running batch."""
        ...

    def take_changes(self) -> list[Changed]:
        """The cache's changes since the last call, in order; empty unless it was made to watch its cache."""
        ...

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        ...

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        ...

    @property
    def kv_usage(self) -> float:
        """Share of the blocks that running requests hold [0..1]."""
        ...

    def kv_usage_at(self, now: float) -> float:
        """The same at a moment before anything is due; nothing is changed by asking."""
        ...
