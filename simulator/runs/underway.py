"""A request under way, and what engines are asked for it."""

from __future__ import annotations

from collections.abc import Sequence

from kvroute.router.core.decide import Decision
from kvroute.router.core.ledger import Lease
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.runs.pairs import Pair
from kvroute.simulator.runs.router import Router
from kvroute.simulator.workloads.contract import Job

UNNAMED = 1 << 63
"""Keys from here on are of answers that no prompt repeats."""


class Open:
    """A request under way."""

    __slots__ = ("decision", "foreign", "job", "pair", "router", "row")

    def __init__(self, row: int, job: Job, router: Router, decision: Decision, pair: Pair | None) -> None:
        self.row = row
        self.job = job
        self.router = router
        self.decision = decision
        """Where it was sent: the prefill of a pair."""
        self.foreign: list[tuple[Router, Lease]] = []
        """What other routers have been told of it."""
        self.pair = pair
        """Where it is prefilled on one replica and decoded on another."""


def keys_of(job: Job, number: int, key_tokens: int) -> Sequence[int]:
    """Keys of all blocks that prompt and answer fill. Where no later prompt can hold the answer they are of no use to
    anybody, but the engine caches its blocks all the same; `number` tells them from those of other requests."""
    keys = job.request.keys
    if job.answer_keys:
        return [*keys, *job.answer_keys]
    first = UNNAMED + (number << 20)
    return [*keys, *range(first, first + (job.request.tokens + job.output_tokens) // key_tokens - len(keys))]


def asked(
    opened: Open, key_tokens: int, output: int = 0, keep: bool = False, remote: int = 0, ready: float = 0.0
) -> EngineRequest:
    """What an engine is asked; `output` 0: all of it."""
    job = opened.job
    request = job.request
    keys = keys_of(job, opened.row, key_tokens)
    return EngineRequest(
        request.id, request.tokens, output or job.output_tokens, keys, request.priority, request.adapter, remote, ready,
        keep, False, not job.answer_keys, opened,
    )  # fmt: skip
