"""Several generators at once."""

from __future__ import annotations

from collections import Counter

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.contract import Job
from kvroute.simulator.workloads.keys import UNIQUE
from kvroute.simulator.workloads.mixture import divided
from kvroute.simulator.workloads.naming import parse
from tests.simulator.workloads.walked import jobs_of


def parts(jobs: list[Job]) -> Counter[str]:
    """Requests of each part."""
    return Counter(job.request.id.partition("/")[0] for job in jobs)


def test_shares_are_of_requests() -> None:
    """Exactly, whatever they add up to."""
    jobs = jobs_of("mixture,chat=5,rag=3,summarise=2,summarise.input=1k", requests=501)
    assert parts(jobs) == {"chat": 251, "rag": 150, "summarise": 100}
    assert parts(jobs_of("mixture", requests=10)) == {"chat": 5, "rag": 3, "summarise": 2}
    assert parts(jobs_of("mixture,chat=1,rag=1000", requests=10)) == {"rag": 10}


def test_parts_share_nothing() -> None:
    """No key of one is in another."""
    owners: dict[int, set[str]] = {}
    for job in jobs_of("mixture,chat=1,rag=1,coding-agents=1,shared-prefix=1,summarise=1", requests=1000):
        for key in (*job.request.keys, *job.answer_keys):
            assert 0 < key < 2 * UNIQUE
            owners.setdefault(key, set()).add(job.request.id.partition("/")[0])
    assert {len(names) for names in owners.values()} == {1}


def test_options_are_for_all_parts_or_for_one() -> None:
    """`key` and `spread` for all; `shared-prefix.output` for one, before what is said for all."""
    jobs = jobs_of(
        "mixture,shared-prefix=1,summarise=1,key=32,spread=0,shared-prefix.output=9,summarise.input=640", requests=20
    )
    assert {(job.request.id[:3], job.output_tokens) for job in jobs} == {("sha", 9), ("sum", 256)}
    assert {job.request.block_tokens for job in jobs} == {32}


def test_the_rate_is_divided_too() -> None:
    """Each part has its share of it."""
    jobs = jobs_of("mixture,shared-prefix=3,rag=1", requests=4000, rate=40.0)
    assert 4000 / jobs[-1].at == pytest.approx(40.0, rel=0.1)


def test_clients_are_divided() -> None:
    """At least one each."""
    jobs = jobs_of("mixture,shared-prefix=3,rag=1,concurrency=8", requests=400)
    assert Counter(job.request.id.partition("/")[0] for job in jobs if job.at == 0) == {"shared-prefix": 6, "rag": 2}
    with pytest.raises(WorkloadError, match="concurrency=1 leaves nothing for some of 2 parts"):
        parse("mixture,chat=1,rag=1,concurrency=1", seed=0)


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [(10, [1, 1, 1], [4, 3, 3]), (2, [1, 1, 1], [1, 1, 0]), (7, [0.5, 0.3, 0.2], [4, 2, 1]), (0, [1, 2], [0, 0])],
)
def test_whole_numbers_in_proportion(count: int, shares: list[float], expected: list[int]) -> None:
    """The largest remainders are rounded up; the sum is kept."""
    assert divided(count, shares) == expected
