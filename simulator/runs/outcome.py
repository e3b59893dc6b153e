"""What came of a run: one row a request, samples over time, and each replica's counts."""

from __future__ import annotations

import math
from array import array

import msgspec

from kvroute.simulator.engine.gaps import Gaps as Gaps
from kvroute.simulator.engine.totals import Totals

_NAN = math.nan


class Requests:
    """One row a request, in order of arrival, as columns. Times are seconds since the start; NaN: it did not happen."""

    __slots__ = (
        "at", "best_hit", "cached", "ended", "first", "hit", "output", "predicted", "preemptions", "prefill",
        "prompt", "replica", "scheduled",
    )  # fmt: skip

    def __init__(self) -> None:
        self.at = array("d")
        """When it was sent."""
        self.scheduled = array("d")
        """When the engine first ran it."""
        self.first = array("d")
        """When the client had its first token; NaN: with the last, for it was not streamed."""
        self.ended = array("d")
        """When the client had its last token."""
        self.predicted = array("d")
        """Predicted TTFT at the decision [s]."""
        self.prompt = array("q")
        """Prompt tokens."""
        self.output = array("q")
        """Output tokens."""
        self.cached = array("q")
        """Prompt tokens that the engine found in its cache."""
        self.hit = array("q")
        """Prompt tokens that the router believed to be there."""
        self.best_hit = array("q")
        """The most that it believed any replica to hold."""
        self.replica = array("i")
        """Index of the replica; -1: none was chosen."""
        self.prefill = array("i")
        """Index of the replica that prefilled it for the other; -1: that one did it itself."""
        self.preemptions = array("i")

    def __len__(self) -> int:
        return len(self.at)

    def add(self, at: float, prompt: int, output: int) -> None:
        """A row for a request that has just been sent."""
        self.at.append(at)
        self.scheduled.append(_NAN)
        self.first.append(_NAN)
        self.ended.append(_NAN)
        self.predicted.append(_NAN)
        self.prompt.append(prompt)
        self.output.append(output)
        self.cached.append(0)
        self.hit.append(0)
        self.best_hit.append(0)
        self.replica.append(-1)
        self.prefill.append(-1)
        self.preemptions.append(0)


class Sample(msgspec.Struct, frozen=True):
    """The fleet at one moment; each list has an entry a replica."""

    time: float
    running: list[int]
    waiting: list[int]
    kv_usage: list[float]
    """Share of the KV blocks that running requests hold [0..1]."""


class Outcome(msgspec.Struct):
    """Everything that a report can be made of."""

    workload: str
    key_tokens: int
    names: list[str]
    """Of the replicas (ranks apart)."""
    requests: Requests
    samples: list[Sample]
    totals: list[Totals]
    """One a replica."""
    gaps: Gaps
    """Inter-token times."""
    reusable_tokens: int
    """Prompt tokens that one endless cache would have held, in order of arrival: the workload's own upper bound."""
    refused: int = 0
    """Requests for which no replica could be chosen, or that no replica has room for."""
    unfinished: int = 0
    """Requests under way when the run was stopped early."""
    followed: int = 0
    """Requests that were sent because another had been answered: the loop is closed where most were."""
    seconds: float = 0.0
    """When the last request ended, since the start."""
    decision_seconds: float = 0.0
    """CPU time spent in decisions; not part of what is byte-identical."""
    cpu_seconds: float = 0.0
    """CPU time of the run; not part of what is byte-identical."""
