"""One sequence on its way through a replica: what was asked, and how far it has come."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence as Keys

import msgspec


class EngineRequest(msgspec.Struct, frozen=True, gc=False):
    """One sequence to run. Its content is known only by the keys of its blocks."""

    id: str
    prompt_tokens: int
    output_tokens: int
    """Tokens it will generate, at least 1."""
    keys: Keys[int] = ()
    """Chained keys of the full blocks (of `Limits.key_tokens`) of prompt and output, in order; what is behind the last
    key is not reusable."""
    priority: int = 0
    """The smaller, the sooner, where the replica's policy is "priority"."""
    adapter: str | None = None
    remote_tokens: int = 0
    """Prompt tokens whose KV comes from another replica: the prompt's room is held from its admission on, and it runs
    from `ready_at` on. Not used again after a preemption."""
    ready_at: float = 0.0
    """When the last of them has arrived [s]."""
    keep: bool = False
    """Its blocks are held beyond its end, for another replica to fetch, until `release`."""
    report_full: bool = False
    """Announce the blocks that were hit as well (`kv_cache_report_mode: full`)."""
    alone: bool = False
    """Nobody else ever asks for keys that it completes while it decodes: they need not be cached before it stops."""
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
        "ready", "reported", "request", "scheduled", "stored",
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
        """Its leading keys that are cached."""
        self.reported = 0
        """Its leading keys that were announced, or need not be."""
        self.cached_tokens = 0
        """Prompt tokens that need not be computed when it was first scheduled: found in a cache, or received."""
        self.preemptions = 0
        self.ready = -math.inf
        """When KV that it waits for is there; until then it is passed over [s]."""
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
