"""Leases: what was promised to a replica. When a request completes is answered here, once.

A lease's prefill load ends at the first output of a stream; for a reply that is not streamed at the predicted end of
its prefill or at its last byte, whichever is first. Its decode load ends at the last byte, an abort or an error.
"""

from __future__ import annotations

import enum
import heapq
import itertools

from kvroute.router.core.estimate import Estimate
from kvroute.router.core.fleet import Fleet
from kvroute.router.core.occupancy import Occupancy, Pin
from kvroute.router.core.replica import Replica
from kvroute.scorers.contract import Column

_CAPACITY = int(Column.CAPACITY_TOKENS)
_INF = float("inf")
_SLACK = 64
"""Ended leases that may wait in the queue of predicted prefill ends, beyond as many as are open."""


class Phase(enum.Enum):
    """What a lease weighs on its replica."""

    PREFILL = "prefill"
    DECODE = "decode"
    SETTLED = "settled"


class Lease:
    """One request's claim on one replica. Settle it on every way out; a second settle changes nothing."""

    __slots__ = (
        "epoch",
        "opened",
        "phase",
        "pin",
        "quadratic",
        "replica",
        "sequences",
        "stream",
        "tokens",
        "work",
    )

    def __init__(
        self,
        replica: Replica,
        tokens: float,
        quadratic: float,
        work: float,
        sequences: int,
        stream: bool,
        pin: Pin,
        opened: float,
    ) -> None:
        self.replica = replica
        self.epoch = replica.epoch
        self.tokens = tokens
        """Uncached prompt tokens it was promised for."""
        self.quadratic = quadratic
        self.work = work
        """Predicted start at factor 1, for the rate's fit [s]."""
        self.sequences = sequences
        self.stream = stream
        self.pin = pin
        self.opened = opened
        self.phase = Phase.PREFILL


class Ledger:
    """All open leases, and their weight in the fleet's table."""

    def __init__(self, fleet: Fleet, occupancy: Occupancy, estimate: Estimate) -> None:
        self._fleet = fleet
        self._occupancy = occupancy
        self._estimate = estimate
        self._open = 0
        self._order = itertools.count(1)
        self._due: list[tuple[float, int, Lease]] = []

    def __len__(self) -> int:
        """Leases not yet settled."""
        return self._open

    def open(self, lease: Lease, predicted: float) -> None:
        """Reserve: from here on the replica's load shows this request. `predicted` is its predicted TTFT [s]."""
        order = next(self._order)
        self._fleet.begin(lease.replica, lease.tokens, lease.quadratic, order, lease.opened, lease.sequences)
        self._weigh(lease.replica, lease.pin)
        self._open += 1
        if not lease.stream:
            due = self._due
            heapq.heappush(due, (lease.opened + predicted, order, lease))
            if len(due) > 2 * self._open + _SLACK:
                self._sweep()

    def _sweep(self) -> None:
        """Let go of leases that ended long before their predicted prefill end: fast engines leave thousands."""
        self._due = [entry for entry in self._due if entry[2].phase is Phase.PREFILL]
        heapq.heapify(self._due)

    def advance(self, now: float) -> None:
        """End the prefill of replies that are not streamed and whose predicted prefill end has passed."""
        due = self._due
        while due and (due[0][0] <= now or due[0][2].phase is not Phase.PREFILL):
            self._prefilled(heapq.heappop(due)[2], now)

    def first_output(self, lease: Lease, now: float) -> bool:
        """A stream's first output, or the KV event of a prompt's last block. False when it was known already."""
        if lease.phase is not Phase.PREFILL:
            return False
        self._prefilled(lease, now)
        if self._current(lease):
            self._estimate.first_output(lease.replica, lease.work, now - lease.opened)
        return True

    def settle(self, lease: Lease, now: float, *, completed: bool, output_tokens: int = 0) -> bool:
        """The request is over here, however it ended. False when it was settled before."""
        if lease.phase is Phase.SETTLED:
            return False
        queued = (lease.tokens, lease.quadratic) if lease.phase is Phase.PREFILL else None
        served = completed or queued is None
        lease.phase = Phase.SETTLED
        self._open -= 1
        if self._current(lease):
            self._occupancy.release(lease.pin, output_tokens, served)
            self._weigh(lease.replica, lease.pin)
        self._fleet.end(lease.replica, now, queued=queued, sequences=lease.sequences)
        return True

    def _current(self, lease: Lease) -> bool:
        """Whether the replica is still the one, in the same life, that the lease was opened at."""
        replica = lease.replica
        return lease.epoch == replica.epoch and self._fleet.get(replica.name) is replica

    def _prefilled(self, lease: Lease, now: float) -> None:
        if lease.phase is Phase.PREFILL:
            lease.phase = Phase.DECODE
            self._fleet.prefilled(lease.replica, lease.tokens, lease.quadratic, lease.sequences, now)

    def _weigh(self, replica: Replica, pin: Pin) -> None:
        """What the replica's cache holds now; read off the pin's holding, which is the replica's."""
        holding = pin.replica
        cached, limit, capacity = holding.cached, holding.limit, replica.cells[_CAPACITY]
        if 0.0 < limit < capacity < _INF:
            # Less of the cache is ours than its size says: full is when our share of it is full.
            cached *= capacity / limit
        self._fleet.weigh(replica, holding.active, cached)
