"""Parts of a workload: to search on, and to judge by."""

from __future__ import annotations

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.search.case import Source
from kvroute.simulator.search.part import Part
from kvroute.simulator.workloads.contract import Job
from tests.simulator.runs.jobs import Listed, job

JOBS = [job(f"r{i}", at=float(i * i), prefix=i % 2) for i in range(10)]


def test_two_parts_are_the_whole_and_share_nothing() -> None:
    """In order, each begins at time 0."""
    first, rest = (list(Part(Listed(JOBS), *part).arrivals()) for part in ((0.0, 0.3), (0.3, 1.0)))
    assert [one.request.id for one in (*first, *rest)] == [one.request.id for one in JOBS]
    assert [one.at for one in first] == [0.0, 1.0, 4.0]
    assert [one.at for one in rest][:3] == [0.0, 7.0, 16.0]


def test_what_follows_comes_along() -> None:
    """At the time that the whole workload says."""
    following: Job = job("next", 0.0, 0)
    part = Part(Listed(JOBS, {"r5": (2.0, following)}), 0.5, 1.0)
    assert [one.at for one in part.after(JOBS[5], 10.0)] == [12.0]


def test_an_empty_part_is_told() -> None:
    """With the workload's name."""
    with pytest.raises(WorkloadError, match="listed: nothing arrives between 0% and 4%"):
        Part(Listed(JOBS), 0.0, 0.04)


def test_a_source_with_a_part() -> None:
    """Names it."""
    whole = Source("shared-prefix", requests=10)
    part = Source("shared-prefix", requests=10, part=(0.5, 1.0)).load()
    assert part.name == "shared-prefix [50% to 100%]"
    assert [one.request.id for one in part.arrivals()] == [one.request.id for one in whole.load().arrivals()][5:]
