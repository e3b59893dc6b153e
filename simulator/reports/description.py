"""What a workload is, in numbers: how much, how fast, how long, and how much of it could be found in a cache."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from kvroute.simulator.reports.distribution import Distribution, Quantiles
from kvroute.simulator.workloads.bound import Bound
from kvroute.simulator.workloads.contract import Job, Workload
from kvroute.simulator.workloads.keys import UNIQUE
from kvroute.simulator.workloads.walk import walk

STEP = 1000
"""Jobs between two reports of progress."""


class Description(msgspec.Struct, frozen=True):
    """Of all its requests. Where turns follow answers, answers are taken to need 20 ms a token."""

    workload: str
    key_tokens: int
    requests: int
    closed: bool
    """Whether requests follow from answers."""
    seconds: float
    """From the first request to the last."""
    rate: float | None
    """Requests per second; None: all at once."""
    prompt_tokens: int
    output_tokens: int
    prompt: Distribution | None
    """[tokens]"""
    output: Distribution | None
    """[tokens]"""
    sessions: int
    """Those that are named; requests without one are none."""
    turns_mean: float | None
    """Requests of a session."""
    reusable_share: float
    """Of the prompt tokens: what one endless cache would have held."""
    reusable_prompts_share: float
    """The same if answers were not kept."""
    common_share: float
    """Of the requests: those whose prompts begin with the most common first key."""
    adapters: int


def described(
    workload: Workload, *, each: Callable[[Job], None] | None = None, progress: Callable[[int], None] | None = None
) -> Description:
    """Go through a workload once. `each` gets all jobs in the order in which they are sent; `progress` their count, now
    and then."""
    account = _Account(workload)
    for job in walk(workload, answered=account.answered):
        account.sent(job)
        if each is not None:
            each(job)
        if progress is not None and len(account.prompt) % STEP == 0:
            progress(len(account.prompt))
    return account.description()


class _Account:
    """What has been seen so far."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self.prompt, self.output = array("q"), array("q")
        self._bounds = Bound(workload.key_tokens), Bound(workload.key_tokens, answers=False)
        self._reusable = [0, 0]
        self._sessions: dict[str, int] = {}
        self._begins: dict[int, int] = {}
        self._adapters: set[str] = set()
        self._closed = False
        self._first = self._last = 0.0

    def answered(self, job: Job, following: Sequence[Job]) -> None:
        """What follows from an answer."""
        self._closed = self._closed or bool(following)

    def sent(self, job: Job) -> None:
        """One more."""
        request = job.request
        if not self.prompt:
            self._first = job.at
        self._last = job.at
        self.prompt.append(request.tokens)
        self.output.append(job.output_tokens)
        for place, bound in enumerate(self._bounds):
            self._reusable[place] += bound.add(job)
        if request.session is not None:
            self._sessions[request.session] = self._sessions.get(request.session, 0) + 1
        if request.keys and request.keys[0] < UNIQUE:
            self._begins[request.keys[0]] = self._begins.get(request.keys[0], 0) + 1
        if request.adapter is not None:
            self._adapters.add(request.adapter)

    def description(self) -> Description:
        """All of it."""
        count, tokens, seconds = len(self.prompt), sum(self.prompt), self._last - self._first
        turns = self._sessions.values()
        return Description(
            workload=self._workload.name,
            key_tokens=self._workload.key_tokens,
            requests=count,
            closed=self._closed,
            seconds=seconds,
            rate=(count - 1) / seconds if seconds > 0 else None,
            prompt_tokens=tokens,
            output_tokens=sum(self.output),
            prompt=_spread(self.prompt),
            output=_spread(self.output),
            sessions=len(turns),
            turns_mean=sum(turns) / len(turns) if turns else None,
            reusable_share=self._reusable[0] / max(1, tokens),
            reusable_prompts_share=self._reusable[1] / max(1, tokens),
            common_share=max(self._begins.values(), default=min(1, count)) / max(1, count),
            adapters=len(self._adapters),
        )


def _spread(values: array[int]) -> Distribution | None:
    return Quantiles(np.array(values, np.float64)).distribution()
