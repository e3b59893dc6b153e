"""One sequence on its way through a replica: what was asked, and how far it has come."""

from __future__ import annotations

import enum
from collections.abc import Sequence as Keys

import msgspec


class EngineRequest(msgspec.Struct, frozen=True, gc=False):
    """One sequence to run. Its content is known only by the keys of its blocks."""

    id: str
    prompt_tokens: int
    output_tokens: int
    """Tokens it will generate, at least 1."""
    keys: Keys[int] = ()
    """Chained keys of the full blocks of prompt and output, in order; blocks behind the last key are not reusable."""
    report_full: bool = False
    """Announce the blocks that were hit as well (`kv_cache_report_mode: full`)."""
    content: object = None
    """What the caller wants to find again in `Stored` and `Output`; the engine does not look at it."""


class Phase(enum.Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


class Sequence:
    """The engine's record of a request. Read-only outside of the engine."""

    __slots__ = (
        "arrived", "blocks", "cached_tokens", "computed", "ended", "first_output", "generated", "phase", "preemptions",
        "reported", "request", "scheduled", "stored",
    )  # fmt: skip

    def __init__(self, request: EngineRequest, now: float) -> None:
        self.request = request
        self.phase = Phase.WAITING
        self.blocks: list[int] = []
        self.computed = 0
        """Tokens whose KV is in its blocks."""
        self.generated = 0
        """Output tokens so far."""
        self.stored = 0
        """Its leading blocks that answer to a key."""
        self.reported = 0
        """Its leading blocks that were announced, or need not be."""
        self.cached_tokens = 0
        """Prompt tokens found in the cache when it was first scheduled."""
        self.preemptions = 0
        self.arrived = now
        self.scheduled = now
        """When it first entered a step [s]."""
        self.first_output = now
        self.ended = now

    @property
    def known(self) -> int:
        """Tokens it consists of now: prompt and output so far."""
        return self.request.prompt_tokens + self.generated

    @property
    def decoding(self) -> bool:
        """Whether its next step computes one generated token only."""
        return self.generated > 0 and self.computed == self.known - 1
