"""What a workload is: requests to come, and those that follow from answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from kvroute.scorers.contract import Request


class Job(msgspec.Struct, frozen=True, gc=False):
    """One request to come: what the router reads of it, and what only time will tell."""

    at: float
    """When it is sent, since the start [s]."""
    request: Request
    """Its keys stand for `Workload.key_tokens` tokens each: full ones only, so `len(keys) <= tokens // key_tokens`."""
    output_tokens: int
    """Tokens that it will generate, at least 1; the router must not see it."""
    answer_keys: Sequence[int] = ()
    """Keys of the further full blocks that its answer completes, where a later prompt may hold them."""


class Workload(Protocol):
    """A source of jobs. Same arguments, same jobs: what is drawn at random comes from a seed of its own, never from
    what the fleet does, so policies are compared on the same requests."""

    name: str
    """As people will read it in reports."""
    key_tokens: int
    """Tokens that one key stands for."""

    def arrivals(self) -> Iterator[Job]:
        """Jobs that are sent whatever happens, by ascending `at`. A new call starts again from nothing."""
        ...

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """Jobs that are sent because this one has just been answered, each with `at >= now`; () in an open loop."""
        ...
