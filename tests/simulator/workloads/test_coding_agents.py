"""Generated coding agents."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kvroute.simulator.workloads.contract import Job
from kvroute.simulator.workloads.naming import parse
from kvroute.simulator.workloads.walk import typical, walk
from tests.simulator.workloads.walked import jobs_of


def lanes(jobs: list[Job], shared: int = 4) -> list[list[Job]]:
    """Turns that continue each other: those with the same first key behind the shared beginning."""
    found: dict[int, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.request.keys[shared], []).append(job)
    return list(found.values())


SMALL = "coding-agents,prefix=256,subprefix=256,task=128,turns=10,step=200,output=50,subturns=3,spread=0.2"


def test_all_sessions_begin_alike() -> None:
    """The same tools and instructions; sub-agents have theirs."""
    jobs = jobs_of(f"{SMALL},subagents=0.2", requests=500)
    beginnings = {tuple(job.request.keys[:4]) for job in jobs}
    assert len(beginnings) == 2


def test_contexts_grow_by_answers_and_results() -> None:
    """Each turn's prompt begins with all of the one before it and its answer."""
    for turns in lanes(jobs_of(f"{SMALL},subagents=0.2", requests=500)):
        for before, after in pairwise(turns):
            whole = [*before.request.keys, *before.answer_keys]
            assert after.request.keys[: len(whole)] == whole
            assert after.request.tokens > before.request.tokens + before.output_tokens


def test_a_parent_waits_for_its_subagents() -> None:
    """They start when its turn is answered, side by side; its next turn comes when all of them are done."""
    workload = parse(f"{SMALL},subagents=1,fan=3,concurrency=1,think=0", seed=2, requests=60)
    jobs = list(walk(workload))
    main = lanes(jobs)[0]
    subs = [turns for turns in lanes(jobs) if turns[0].request.keys[0] != main[0].request.keys[0]]
    for number, (before, after) in enumerate(pairwise(main)):
        own = subs[3 * number : 3 * number + 3]
        assert {turns[0].at for turns in own} == {before.at + typical(before)}
        assert after.at == pytest.approx(max(turns[-1].at + typical(turns[-1]) for turns in own))


def test_contexts_end_where_they_are_full() -> None:
    """No prompt with its answer is beyond it, but for a first turn and sub-agents' reports."""
    jobs = jobs_of(f"{SMALL},subagents=0,context=800", requests=300)
    assert max(job.request.tokens + job.output_tokens for job in jobs) <= 800


def test_the_first_requests_of_a_session_need_no_later_ones() -> None:
    """Cut anywhere, a session still runs to its end."""
    for requests in range(1, 40):
        assert len(jobs_of(f"{SMALL},subagents=0.5,concurrency=1", requests=requests)) == requests
