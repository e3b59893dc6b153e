"""What every source of requests is asked for, and what it is made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvroute.simulator.workloads.contract import Workload
from kvroute.simulator.workloads.options import Option, Options

DEFAULT_REQUESTS = 1000
"""What a generator makes unless told how many."""


class Wanted(NamedTuple):
    """What one workload is made from."""

    name: str
    """As the user wrote it."""
    path: str
    """Of the trace; empty for generators."""
    options: Options
    seed: int
    requests: int | None
    """The first so many; None: all of a trace, `DEFAULT_REQUESTS` of a generator."""
    rate: float | None
    """Requests per second."""
    speedup: float
    """What times are divided by."""
    tag: str = ""
    """What the ids of its requests begin with, where it is part of a mixture."""
    first_key: int = 1
    """From where on it may give out keys: it has `KEYS_EACH` to itself, and as many from `UNIQUE` on."""


class Source(NamedTuple):
    """A kind of workload."""

    summary: str
    options: tuple[Option, ...]
    make: Callable[[Wanted], Workload]
