"""Workloads gone through in a test, with what is checked of every one of them."""

from __future__ import annotations

from collections.abc import Sequence

from kvroute.simulator.workloads.contract import Job, Workload
from kvroute.simulator.workloads.keys import UNIQUE
from kvroute.simulator.workloads.naming import parse
from kvroute.simulator.workloads.walk import typical, walk


def jobs_of(
    spec: str, seed: int = 1, requests: int | None = None, rate: float | None = None, speedup: float = 1.0
) -> list[Job]:
    """All jobs in the order in which they are sent, answers taking 20 ms a token."""
    return checked(parse(spec, seed=seed, requests=requests, rate=rate, speedup=speedup))


def checked(workload: Workload) -> list[Job]:
    """All jobs. Holds that they are well-formed, and that no turn is sent before what it follows was answered."""
    jobs: list[Job] = []
    allowed: dict[str, float] = {}

    def answered(job: Job, following: Sequence[Job]) -> None:
        for one in following:
            allowed[one.request.id] = job.at + typical(job)

    for job in walk(workload, answered=answered):
        jobs.append(job)
        assert job.at >= allowed.get(job.request.id, 0.0)
    times = [job.at for job in jobs]
    assert times == sorted(times)
    assert len({job.request.id for job in jobs}) == len(jobs)
    for job in jobs:
        request = job.request
        assert job.output_tokens >= 1
        assert request.tokens >= 1
        assert request.block_tokens == workload.key_tokens
        assert len(request.keys) <= request.tokens // workload.key_tokens
        whole = (request.tokens + job.output_tokens) // workload.key_tokens
        assert len(request.keys) + len(job.answer_keys) <= whole
        assert all(0 < key < 2 * UNIQUE for key in (*request.keys, *job.answer_keys))
    assert_chained(jobs)
    return jobs


def assert_chained(jobs: Sequence[Job]) -> None:
    """Equal keys stand behind equal keys, and those that call themselves unique are in one prompt."""
    parents: dict[int, int] = {}
    owners: dict[int, str] = {}
    for job in jobs:
        before = 0
        for key in (*job.request.keys, *job.answer_keys):
            assert parents.setdefault(key, before) == before
            before = key
            if key >= UNIQUE:
                assert owners.setdefault(key, job.request.id) == job.request.id
