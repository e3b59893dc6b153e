"""Conversations."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from kvroute.simulator.workloads.contract import Job
from kvroute.simulator.workloads.naming import parse
from kvroute.simulator.workloads.sessions import Sessions
from tests.simulator.workloads.walked import checked, jobs_of


def talks(jobs: list[Job]) -> list[list[Job]]:
    """The turns of each conversation."""
    found: dict[str | None, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.request.session, []).append(job)
    return list(found.values())


def test_what_was_said_stays_in_the_prompt() -> None:
    """A turn's prompt begins with the prompt and the answer before it, and grows by the message."""
    for turns in talks(jobs_of("chat,system=100", requests=500)):
        assert turns[0].request.tokens > 100
        for before, after in pairwise(turns):
            whole = [*before.request.keys, *before.answer_keys]
            assert after.request.keys[: len(whole)] == whole
            assert after.request.tokens > before.request.tokens + before.output_tokens
            assert after.request.anchor == before.request.anchor


def test_turns_wait_and_think() -> None:
    """The pause between an answer and the next turn is exponential, of the mean asked for."""
    pauses = [
        after.at - before.at - 0.02 * before.output_tokens
        for turns in talks(jobs_of("chat,think=8", requests=8000))
        for before, after in pairwise(turns)
    ]
    mean = math.fsum(pauses) / len(pauses)
    assert mean == pytest.approx(8.0, rel=0.05)
    assert math.fsum(pause > mean for pause in pauses) / len(pauses) == pytest.approx(math.exp(-1), abs=0.02)


def test_the_rate_is_of_requests() -> None:
    """In the long run; sessions start accordingly."""
    jobs = jobs_of("chat,turns=6", requests=30_000, rate=20.0)
    middle = [job for job in jobs if 300 <= job.at < 1300]
    assert len(middle) / 1000 == pytest.approx(20.0, rel=0.1)


def test_a_context_that_is_full_ends_the_conversation() -> None:
    """No prompt and its answer is beyond it, but a first turn that is long by itself."""
    for turns in talks(jobs_of("chat,turns=20,context=1500", requests=1000)):
        assert all(job.request.tokens + job.output_tokens <= 1500 for job in turns[1:])


def test_so_many_users_at_once() -> None:
    """The next comes as one leaves: under way are so many at any time."""
    jobs = jobs_of("chat,concurrency=5", requests=800)
    spans = [(turns[0].at, turns[-1].at + 0.02 * turns[-1].output_tokens) for turns in talks(jobs)]
    assert [begin for begin, _ in spans[:5]] == [0.0] * 5
    for begin, _ in spans[5:]:
        assert sum(first <= begin < last for first, last in spans) == 5


def test_what_is_sent_does_not_depend_on_the_fleet() -> None:
    """A slow fleet is asked the same: contents, and think times."""
    workload = parse("chat,concurrency=9", seed=4, requests=300)
    assert isinstance(workload, Sessions)
    quick = {job.request.id: job.request for job in checked(workload)}
    slow = {}
    waiting = list(workload.arrivals())
    while waiting:
        job = waiting.pop()
        slow[job.request.id] = job.request
        waiting += workload.after(job, job.at + 1000.0)
    assert quick == slow
