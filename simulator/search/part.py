"""A part of a workload: the first half to tune on, the rest to judge by."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import msgspec

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.contract import Job, Workload


class Part:
    """The arrivals between two shares of a workload, starting at time 0. What follows from them comes along."""

    __slots__ = ("_first", "_last", "_origin", "_whole", "key_tokens", "name")

    def __init__(self, whole: Workload, first: float, last: float) -> None:
        """Shares of the number of arrivals, `0 <= first < last <= 1`.

        Raises:
            WorkloadError: nothing arrives in that part.
        """
        times = [job.at for job in whole.arrivals()]
        self._whole = whole
        self._first, self._last = round(first * len(times)), round(last * len(times))
        if self._first >= self._last:
            raise WorkloadError(f"{whole.name}: nothing arrives between {first:.0%} and {last:.0%} of its requests")
        self._origin = times[self._first]
        self.name = f"{whole.name} [{first:.0%} to {last:.0%}]"
        self.key_tokens = whole.key_tokens

    def arrivals(self) -> Iterator[Job]:
        """The part's jobs; the first is sent at time 0."""
        for job in itertools.islice(self._whole.arrivals(), self._first, self._last):
            yield msgspec.structs.replace(job, at=job.at - self._origin)

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """As the whole workload says."""
        return self._whole.after(job, now)
