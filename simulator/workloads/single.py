"""What generators of single requests have in common: how many, how fast, in which loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads import arrivals
from kvroute.simulator.workloads.contract import Job, Workload
from kvroute.simulator.workloads.loops import Clients, OpenLoop
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.source import DEFAULT_REQUESTS, Wanted

KEY = Option("key", 64, "tokens that one key stands for", least=1, most=1_000_000)
CLOSED = (
    Option("concurrency", None, "closed loop: so many clients, each sends when its last was answered", least=1),
    Option("pause", 0.0, "closed loop: seconds from an answer to the client's next request", float),
)
SINGLE = (KEY, *arrivals.OPTIONS, *CLOSED)


def in_loop(wanted: Wanted, jobs: Callable[[], Iterator[Job]], key_tokens: int | None = None) -> Workload:
    """As clients where a concurrency was given, else at the jobs' own times."""
    options = wanted.options
    key_tokens = options.whole("key") if key_tokens is None else key_tokens
    clients = concurrency(wanted)
    if clients is None:
        return OpenLoop(wanted.name, key_tokens, jobs)
    return Clients(wanted.name, key_tokens, jobs, clients, options.number("pause") / wanted.speedup)


def limited(wanted: Wanted, jobs: Iterator[Job]) -> Iterator[Job]:
    """The first of an endless source."""
    return islice(jobs, DEFAULT_REQUESTS if wanted.requests is None else wanted.requests)


def arriving(wanted: Wanted) -> Iterator[float]:
    """When an endless source's requests arrive."""
    rng = np.random.default_rng([wanted.seed, 2])
    return arrivals.times(wanted.options, rate_of(wanted), rng, wanted.speedup)


def rate_of(wanted: Wanted) -> float:
    """Requests per second, before the speedup: the command line's before the workload's own."""
    return wanted.options.number("rate") if wanted.rate is None else wanted.rate


def concurrency(wanted: Wanted) -> int | None:
    """How many are sent at once in a closed loop; None: an open one.

    Raises:
        WorkloadError: a rate was given too. A closed loop has none: it sends when it is answered.
    """
    at_once = wanted.options.whole_or_none("concurrency")
    told = sorted(wanted.options.given & {"rate", "arrivals", "sessions"})
    if at_once is not None and (wanted.rate is not None or told):
        given = "a rate" if wanted.rate is not None else told[0]
        raise WorkloadError(
            f"{wanted.name}: concurrency={at_once} sends as answers come, so {given} cannot be kept too; give one"
        )
    return at_once
