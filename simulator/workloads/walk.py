"""A workload without a fleet: every answer takes what it is told to take. Shows what a closed loop would send."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush

from kvroute.simulator.workloads.contract import Job, Workload

TOKEN_SECONDS = 0.02
"""Of an answer, where nothing else is known [s/token]."""


def typical(job: Job) -> float:
    """Seconds that its answer takes at 20 ms a token, whatever the prompt."""
    return TOKEN_SECONDS * job.output_tokens


def walk(
    workload: Workload,
    seconds: Callable[[Job], float] = typical,
    *,
    answered: Callable[[Job, Sequence[Job]], None] | None = None,
) -> Iterator[Job]:
    """All jobs in the order in which they are sent. `answered` is told of each that is, and of what follows from it."""
    arrivals = workload.arrivals()
    coming = next(arrivals, None)
    due: list[tuple[float, int, bool, Job]] = []
    number = 0
    while coming is not None or due:
        if coming is not None and (not due or coming.at <= due[0][0]):
            job, now, sent = coming, coming.at, True
            coming = next(arrivals, None)
        else:
            now, _, sent, job = heappop(due)
        if sent:
            yield job
            number += 1
            heappush(due, (now + seconds(job), number, False, job))
            continue
        followers = workload.after(job, now)
        if answered is not None:
            answered(job, followers)
        for following in followers:
            number += 1
            heappush(due, (following.at, number, True, following))
