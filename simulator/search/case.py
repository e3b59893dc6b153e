"""One run that a search asks for, small enough to be sent to another process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice
from typing import TypeAlias

import msgspec

from kvroute.simulator.reports.summary import Summary, summarise
from kvroute.simulator.runs.outcome import Outcome
from kvroute.simulator.runs.run import simulate
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.part import Part
from kvroute.simulator.slo import Slo
from kvroute.simulator.workloads.contract import Workload
from kvroute.simulator.workloads.naming import parse

Tell: TypeAlias = Callable[[int, float], None]
"""(requests done, simulated seconds)."""


KEPT = 4
"""Workloads that a process keeps ready."""


COUNTED = 200_000
"""Requests that are counted beforehand, for progress bars."""


class Source(msgspec.Struct, frozen=True):
    """Where a workload comes from; equal sources are the same jobs."""

    spec: str
    """As on the command line: `mooncake:PATH`, `shared-prefix,input=512`, ..."""
    seed: int = 0
    requests: int | None = None
    rate: float | None = None
    """Mean requests per second; None: as the workload has it."""
    speedup: float = 1.0
    part: tuple[float, float] | None = None
    """Only arrivals from this share on and before that one, e.g. (0.0, 0.5)."""

    @property
    def endless(self) -> bool:
        """A generator that was not told how many requests: more of them can be had than it makes by itself."""
        return self.requests is None and ":" not in self.spec.partition(",")[0]

    def load(self) -> Workload:
        """The workload.

        Raises:
            WorkloadError: naming the fault.
        """
        return _loaded(self)

    def expected(self) -> int | None:
        """Requests that there will be, as far as that is told beforehand: closed loops add to their first ones.

        None: more than are worth counting.
        """
        return self.requests if self.requests is not None else _counted(self)


@lru_cache(maxsize=KEPT)
def _counted(source: Source) -> int | None:
    counted = sum(1 for _ in islice(source.load().arrivals(), COUNTED))
    return counted if counted < COUNTED else None


@lru_cache(maxsize=KEPT)
def _loaded(source: Source) -> Workload:
    """Kept, because many runs are of the same workload and a trace takes longer to read than to run."""
    if source.part is not None:
        return Part(msgspec.structs.replace(source, part=None).load(), *source.part)
    return parse(source.spec, seed=source.seed, requests=source.requests, rate=source.rate, speedup=source.speedup)


class Case(msgspec.Struct, frozen=True):
    """One run to make."""

    label: str
    """For people: which run it is, where it fails."""
    source: Source
    scenario: Scenario
    slo: str | None = None


Evaluate: TypeAlias = Callable[[Sequence[Case]], list[Summary]]
"""Makes the runs, in whatever order and on however many processes; the answers stand in the cases' order."""


def run_case(case: Case, tell: Tell | None = None, stop: Callable[[], bool] | None = None) -> tuple[Outcome, Summary]:
    """Make one run and sum it up."""
    outcome = simulate(case.source.load(), case.scenario, progress=tell, stop=stop)
    return outcome, summarise(outcome, case.scenario, None if case.slo is None else Slo.parse(case.slo))


def evaluate_here(cases: Sequence[Case]) -> list[Summary]:
    """Make the runs one after the other in this process."""
    return [run_case(case)[1] for case in cases]
