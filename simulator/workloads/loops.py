"""Open and closed loops over requests that do not depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from kvroute.simulator.workloads.contract import Job


class OpenLoop:
    """Jobs that are sent at their own times, whatever the fleet does."""

    def __init__(self, name: str, key_tokens: int, jobs: Callable[[], Iterator[Job]]) -> None:
        """`jobs` begins them anew at each call, by ascending `at`."""
        self.name = name
        self.key_tokens = key_tokens
        self._jobs = jobs

    def arrivals(self) -> Iterator[Job]:
        """All of them."""
        return self._jobs()

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """Nothing follows from an answer."""
        return ()


class Clients:
    """A number of clients, each of which sends the next job when its last was answered; the jobs' own times are left
    out. Jobs are taken in one order, so the i-th to be sent is the same whatever the fleet does."""

    def __init__(
        self, name: str, key_tokens: int, jobs: Callable[[], Iterator[Job]], clients: int, pause: float = 0.0
    ) -> None:
        """`pause` is what a client waits between an answer and its next job [s]."""
        self.name = name
        self.key_tokens = key_tokens
        self._jobs = jobs
        self._clients = clients
        self._pause = pause
        self._left: Iterator[Job] = iter(())

    def arrivals(self) -> Iterator[Job]:
        """The first job of each client, at 0."""
        self._left = self._jobs()
        return (_at(job, 0.0) for job in islice(self._left, self._clients))

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """The next that nobody has sent."""
        following = next(self._left, None)
        return () if following is None else (_at(following, now + self._pause),)


def _at(job: Job, at: float) -> Job:
    return Job(at, job.request, job.output_tokens, job.answer_keys)
