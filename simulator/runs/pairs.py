"""A request that is prefilled on one replica and decoded on another, where that is sooner than one replica alone.

The prefill replica is sent the prompt for one token, and keeps its blocks until they were fetched; the decode replica
is sent the request when the prefill's reply is in, as vLLM's NIXL connector has it.
"""

from __future__ import annotations

import msgspec

from kvroute.router.core.decide import Decision, Reason
from kvroute.router.core.ledger import Lease
from kvroute.scorers.contract import Column, Request
from kvroute.simulator.engine.sequence import Sequence
from kvroute.simulator.runs.links import Links
from kvroute.simulator.runs.router import PREFILL, Router

_STEP = int(Column.STEP_SECONDS)


class Pair:
    """Both halves of one request."""

    __slots__ = ("decode", "prefill", "request", "row", "sequence", "tokens")

    def __init__(self, request: Request, prefill: Decision, decode: Lease, row: int, tokens: float) -> None:
        self.request = request
        """As the prefill replica is sent it."""
        self.prefill = prefill
        self.decode = decode
        self.row = row
        """Of the decode replica."""
        self.tokens = tokens
        """Whose KV goes over the link."""
        self.sequence: Sequence | None = None
        """The prefill, while its blocks are kept."""

    @property
    def source(self) -> int:
        """Row of the prefill replica."""
        return self.prefill.replica.row


def better(router: Router, links: Links, request: Request, alone: Decision, now: float) -> Pair | None:
    """The pair of the best prefill replica and the replica of `alone`, if its first token is predicted sooner.

    `alone` is given up for it: its lease is settled. Otherwise None, and nothing has changed.
    """
    deciding = router.deciding
    asked = msgspec.structs.replace(request, model=PREFILL, stream=False)
    first = deciding.decide(asked, now)
    if isinstance(first, Reason):
        return None
    row = alone.replica.row
    moved = request.tokens - alone.hit_tokens
    transfer = links.seconds(first.replica.row, row, moved)
    step = alone.replica.cells[_STEP]
    if first.replica is alone.replica or first.predicted_ttft + transfer + step >= alone.predicted_ttft:
        deciding.settle(asked, first, now, completed=False)
        return None
    deciding.settle(request, alone, now, completed=False)
    # To the decode replica it is as a prompt that is there but for its last token.
    lease = deciding.foreign(request, alone.replica, request.tokens - 1.0, first.predicted_ttft + transfer, now)
    return Pair(asked, first, lease, row, moved)
