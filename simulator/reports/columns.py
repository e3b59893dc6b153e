"""What each request of a run had to wait for: the outcome's rows as columns of seconds."""

from __future__ import annotations

import math
from array import array

import numpy as np
import numpy.typing as npt

from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.runs.outcome import Outcome
from kvroute.simulator.runs.scenario import Scenario

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Columns:
    """One entry a request, in order of arrival. Seconds unless said otherwise; NaN: it did not happen."""

    __slots__ = (
        "at", "cached", "done", "e2e", "ended", "first", "hit", "output", "preemptions", "prefill", "prefilled_by",
        "prompt", "queue", "replica", "tpot", "ttft", "wait",
    )  # fmt: skip

    def __init__(self, outcome: Outcome, scenario: Scenario, skip: float = 0.0) -> None:
        """`skip`: requests sent before this moment are left out [s since the start]."""
        rows = outcome.requests
        at = _floats(rows.at)
        kept = at >= skip
        self.at = at[kept]
        self.first = _floats(rows.first)[kept]
        self.ended = _floats(rows.ended)[kept]
        self.prompt = _ints(rows.prompt)[kept]
        self.output = _ints(rows.output)[kept]
        self.cached = _ints(rows.cached)[kept]
        """Prompt tokens."""
        self.hit = _ints(rows.hit)[kept]
        """Prompt tokens that the router believed to be cached."""
        self.replica = _ints(rows.replica)[kept]
        """Index of the replica that answered; -1: none was chosen."""
        helper = _ints(rows.prefill)[kept]
        self.prefilled_by = np.where(helper >= 0, helper, self.replica)
        """Index of the replica that computed its prompt: the same one, unless prefill and decode are apart."""
        self.preemptions = _ints(rows.preemptions)[kept]
        self.done = ~np.isnan(self.ended)
        """Whether its last token came."""
        self.ttft: Floats = self.first - self.at
        """Sent until the client's first token."""
        self.e2e: Floats = self.ended - self.at
        """Sent until the client's last token."""
        later = np.where(self.output > 1, self.output - 1, 1)
        self.tpot: Floats = np.where(self.output > 1, (self.ended - self.first) / later, math.nan)
        """Time per output token after the first; NaN of a single token."""
        scheduled = _floats(rows.scheduled)[kept]
        self.queue: Floats = np.maximum(scheduled - self._at_engine(kinds(scenario)), 0.0)
        """In the engine's queue, until it first ran: what lies before the engine (HTTP, tokenising) is not in it."""
        self.prefill: Floats = self.first - scheduled
        """From then to the client's first token: its own prefill, with what shares its steps."""
        self.wait: Floats = np.where(helper >= 0, self.ttft, self.queue)
        """What grows when the fleet cannot keep up. Where prefill and decode are apart a request may also wait for
        the second of them, after it was first scheduled: then the whole TTFT."""

    def __len__(self) -> int:
        return len(self.at)

    def _at_engine(self, fleet: list[Kind]) -> Floats:
        """When it reached the engine's queue."""
        fixed = np.array([*(kind.ingress.seconds for kind in fleet), 0.0])
        per_token = np.array([*(kind.ingress.per_token for kind in fleet), 0.0])
        moment: Floats = self.at + fixed[self.prefilled_by] + per_token[self.prefilled_by] * self.prompt
        return moment


def kinds(scenario: Scenario) -> list[Kind]:
    """The kind of each replica: an endpoint's ranks are replicas of their own."""
    return [kind for kind in scenario.replicas for _ in range(kind.ranks)]


def _floats(column: array[float]) -> Floats:
    return np.array(column, dtype=np.float64)


def _ints(column: array[int]) -> Ints:
    return np.array(column, dtype=np.int64)
