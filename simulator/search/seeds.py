"""The same run with several seeds: the cases, and whether a seed changes the requests at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.case import Case, Source
from kvroute.simulator.workloads.contract import Job, Workload

SAMPLED = 200
"""Jobs looked at to see whether a seed changes a workload."""


def seeded(label: str, source: Source, scenario: Scenario, seeds: Sequence[int], slo: str | None) -> list[Case]:
    """One case a seed; requests and dice have the same one."""
    return [
        Case(
            f"{label}, seed {seed}",
            msgspec.structs.replace(source, seed=seed),
            msgspec.structs.replace(scenario, seed=seed),
            slo,
        )
        for seed in seeds
    ]


def seed_changes(source: Source) -> bool:
    """Whether another seed makes other requests; a recorded trace is the same for all."""
    first, second = (_head(msgspec.structs.replace(source, seed=source.seed + i).load()) for i in (0, 1))
    return first != second


def _head(workload: Workload) -> list[tuple[float, int, int, list[int]]]:
    jobs: Iterator[Job] = islice(workload.arrivals(), SAMPLED)
    return [(job.at, job.request.tokens, job.output_tokens, list(job.request.keys)) for job in jobs]
