"""A request under way, and what engines are asked for it."""

from __future__ import annotations

from kvroute.router.core.decide import Decision
from kvroute.router.core.ledger import Lease
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.runs.pairs import Pair
from kvroute.simulator.runs.router import Router
from kvroute.simulator.workloads.contract import Job


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


def asked(opened: Open, output: int = 0, keep: bool = False, remote: int = 0, ready: float = 0.0) -> EngineRequest:
    """What an engine is asked; `output` 0: all of it."""
    job = opened.job
    request = job.request
    keys = request.keys if not job.answer_keys else [*request.keys, *job.answer_keys]
    return EngineRequest(
        request.id, request.tokens, output or job.output_tokens, keys, request.priority, request.adapter, remote, ready,
        keep, False, opened,
    )  # fmt: skip
