"""A request that is prefilled on one replica and decoded on another, where that is sooner than one replica alone.

The prefill replica is sent the prompt for one token, and keeps its blocks until they were fetched; the decode replica
is sent the request when the prefill's reply is in, as vLLM's NIXL connector has it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from kvroute.router.core.decide import Deciding, Decision, Reason
from kvroute.router.core.ledger import Lease
from kvroute.router.core.replica import Replica
from kvroute.scorers.contract import Column, Request
from kvroute.scorers.latency import latency
from kvroute.scorers.pipeline import Pipeline
from kvroute.simulator.engine.sequence import Sequence
from kvroute.simulator.runs.links import Links
from kvroute.simulator.runs.router import PREFILL, Router

_STEP = int(Column.STEP_SECONDS)
_DEFAULT = latency()


class Pair:
    """Both halves of one request."""

    __slots__ = ("decode", "predicted", "prefill", "request", "row", "sequence", "tokens")

    def __init__(
        self, request: Request, prefill: Decision, decode: Lease, row: int, tokens: float, predicted: float
    ) -> None:
        self.request = request
        """As the prefill replica is sent it."""
        self.prefill = prefill
        self.decode = decode
        self.row = row
        """Of the decode replica."""
        self.tokens = tokens
        """Whose KV goes over the link."""
        self.predicted = predicted
        """TTFT, as far as it can be told [s]."""
        self.sequence: Sequence | None = None
        """The prefill, while its blocks are kept."""

    @property
    def source(self) -> int:
        """Row of the prefill replica."""
        return self.prefill.replica.row


def split(router: Router, links: Links, request: Request, now: float) -> Pair | None:
    """The pair of replicas that this request should go to, reserved; None: it should go to one alone.

    Plans are compared by the policy's sum of seconds, where it is a sum, else by the default's: the parts that others
    bear are what a split saves. Whom to ask for the prefill is the policy's choice; the decode is where the request
    would be cheapest alone.
    """
    deciding = router.deciding
    asked = msgspec.structs.replace(request, model=PREFILL, stream=False)
    alone, first = _cheapest(deciding, request, now), _cheapest(deciding, asked, now)
    if alone is None or first is None or first.replica is alone.replica:
        return None
    moved = request.tokens - alone.hit
    transfer = links.seconds(first.replica.row, alone.replica.row, moved)
    if first.seconds + transfer + alone.replica.cells[_STEP] >= alone.seconds:
        return None
    prefill = deciding.decide(asked, now)
    if isinstance(prefill, Reason):
        return None
    # To the decode replica it is as a prompt that is there but for its last token.
    lease = deciding.foreign(request, alone.replica, request.tokens - 1.0, prefill.predicted_ttft + transfer, now)
    return Pair(asked, prefill, lease, alone.replica.row, moved, prefill.predicted_ttft + transfer)


class _Plan(NamedTuple):
    seconds: float
    replica: Replica
    hit: float


def _cheapest(deciding: Deciding, request: Request, now: float) -> _Plan | None:
    pool = deciding.pool(request, now)
    if isinstance(pool, Reason):
        return None
    candidates = deciding.candidates(request, pool, now)
    policy = deciding.policy if isinstance(deciding.policy, Pipeline) else _DEFAULT
    totals = policy.totals(request, candidates, now)
    index = int(totals.argmin())
    return _Plan(totals.item(index), pool.replicas[index], candidates.hit_tokens.item(index))
