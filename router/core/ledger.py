"""Leases: what was promised to a replica. When a request completes is answered here, once.

A lease's prefill load ends at the first output of a stream; for a reply that is not streamed at the KV event that
stores its prompt's last block, at the predicted end of its prefill or at its last byte, whichever is first. Its decode
load ends at the last byte, an abort or an error.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from collections.abc import Collection, Iterator
from typing import Protocol

import msgspec

from kvroute.router.core.estimate import Estimate
from kvroute.router.core.fleet import Fleet
from kvroute.router.core.occupancy import Occupancy, Pin
from kvroute.router.core.replica import Replica, State
from kvroute.router.core.sources import Source
from kvroute.scorers.contract import Column, Request

_CAPACITY = int(Column.CAPACITY_TOKENS)
_INF = float("inf")
_SLACK = 64
"""Ended leases that may wait in the queue of predicted prefill ends, beyond as many as are open."""


class Phase(enum.Enum):
    """What a lease weighs on its replica."""

    PREFILL = "prefill"
    DECODE = "decode"
    SETTLED = "settled"


class Lease(msgspec.Struct, eq=False, gc=False):
    """One request's claim on one replica. Settle it on every way out; a second settle changes nothing."""

    replica: Replica
    epoch: int
    """The replica's life in which it was opened."""
    tokens: float
    """Uncached prompt tokens it was promised for."""
    quadratic: float
    work: float
    """Predicted start at factor 1, for the rate's fit [s]."""
    sequences: int
    stream: bool
    pin: Pin
    opened: float
    phase: Phase = Phase.PREFILL
    alone: bool = False
    """Nobody's prefill was under way there when it was opened."""
    order: int = 0
    """Its number, unique among the leases of this process."""
    last_key: int | None = None
    """Key of the prompt's last full block, while a KV event that stores it would end the prefill."""


class Journal(Protocol):
    """Hears of every lease of this router as it happens, so that other routers can be told."""

    def opened(self, lease: Lease, request: Request, predicted: float) -> None:
        """Reserved: the request is about to be sent. `predicted` is its predicted TTFT [s]."""

    def prefilled(self, lease: Lease) -> None:
        """Its first output was seen, or taken for granted."""

    def settled(self, lease: Lease, served: bool, output_tokens: int) -> None:
        """It is over. `served`: its prompt was computed, so its blocks stay there."""


class Ledger:
    """All open leases of one side (this router, or the others), and their weight in the fleet's table."""

    def __init__(
        self, fleet: Fleet, occupancy: Occupancy, estimate: Estimate, orders: Iterator[int] | None = None
    ) -> None:
        """`orders` numbers the leases: ledgers over one fleet must share it."""
        self._fleet = fleet
        self._occupancy = occupancy
        self._estimate = estimate
        self._open = 0
        self._orders = itertools.count(1) if orders is None else orders
        self._due: list[tuple[float, int, Lease]] = []
        self._awaiting: dict[int, dict[int, list[Lease]]] = {}
        self.journal: Journal | None = None

    def __len__(self) -> int:
        """Leases not yet settled."""
        return self._open

    def open(self, lease: Lease, predicted: float, request: Request) -> None:
        """Reserve: from here on the replica's load shows this request. `predicted` is its predicted TTFT [s]."""
        order = lease.order = next(self._orders)
        replica = lease.replica
        lease.alone = replica.pending == 0
        self._fleet.begin(replica, lease.tokens, lease.quadratic, order, lease.opened, lease.sequences)
        self._weigh(replica, lease.pin)
        self._open += 1
        if not lease.stream:
            due = self._due
            heapq.heappush(due, (lease.opened + predicted, order, lease))
            if len(due) > 2 * self._open + _SLACK:
                self._sweep()
            if replica.source is Source.EXACT and request.keys and lease.sequences == 1:
                self._await(lease, request.keys[-1])
        if self.journal is not None:
            self.journal.opened(lease, request, predicted)

    def _sweep(self) -> None:
        """Let go of leases that ended long before their predicted prefill end: fast engines leave thousands."""
        self._due = [entry for entry in self._due if entry[2].phase is Phase.PREFILL]
        heapq.heapify(self._due)

    def advance(self, now: float) -> None:
        """End the prefill of replies that are not streamed and whose predicted prefill end has passed."""
        due = self._due
        while due and (due[0][0] <= now or due[0][2].phase is not Phase.PREFILL):
            self.prefilled(heapq.heappop(due)[2], now)

    def stored(self, row: int, keys: Collection[int], now: float, *, timely: bool) -> None:
        """The engine in this row has stored these blocks, just now if `timely`: prompts that end with one of them are
        computed.

        Rates are learnt from those that were alone: events come at the end of a step, in which others' prompts were
        computed too.
        """
        awaiting = self._awaiting.get(row)
        if awaiting:
            for key in awaiting.keys() & set(keys):
                for lease in awaiting[key].copy():
                    if timely and lease.alone:
                        self.first_output(lease, now)
                    else:
                        self.prefilled(lease, now)

    def awaits(self, row: int) -> bool:
        """Whether a lease's prefill there would be ended by `stored`."""
        return bool(self._awaiting.get(row))

    def _await(self, lease: Lease, key: int) -> None:
        lease.last_key = key
        self._awaiting.setdefault(lease.replica.row, {}).setdefault(key, []).append(lease)

    def _awaited(self, lease: Lease) -> None:
        """The lease's prefill is over: no KV event is waited for."""
        key, lease.last_key = lease.last_key, None
        awaiting = self._awaiting.get(lease.replica.row)
        if key is not None and awaiting is not None:
            awaiting[key].remove(lease)
            if not awaiting[key]:
                del awaiting[key]

    def first_output(self, lease: Lease, now: float) -> bool:
        """A stream's first output, or the KV event of a prompt's last block. False when it was known already."""
        if lease.phase is not Phase.PREFILL:
            return False
        self.prefilled(lease, now)
        if self._current(lease):
            self._estimate.first_output(lease.replica, lease.work, now - lease.opened, now)
        return True

    def prefilled(self, lease: Lease, now: float) -> None:
        """Its prefill is over, as far as load goes; nothing is learnt from when."""
        if lease.phase is Phase.PREFILL:
            lease.phase = Phase.DECODE
            if lease.last_key is not None:
                self._awaited(lease)
            self._fleet.prefilled(lease.replica, lease.tokens, lease.quadratic, lease.sequences, now)
            if self.journal is not None:
                self.journal.prefilled(lease)

    def settle(self, lease: Lease, now: float, *, completed: bool, output_tokens: int = 0) -> bool:
        """The request is over here, however it ended. False when it was settled before."""
        if lease.phase is Phase.SETTLED:
            return False
        queued = (lease.tokens, lease.quadratic) if lease.phase is Phase.PREFILL else None
        served = completed or queued is None
        if lease.last_key is not None:
            self._awaited(lease)
        lease.phase = Phase.SETTLED
        self._open -= 1
        if self._current(lease):
            self._occupancy.release(lease.pin, output_tokens, served, now)
            self._weigh(lease.replica, lease.pin)
        self._fleet.end(lease.replica, now, queued=queued, sequences=lease.sequences)
        if self.journal is not None:
            self.journal.settled(lease, served, output_tokens)
        return True

    def _current(self, lease: Lease) -> bool:
        """Whether the replica is still the one, in the same life, that the lease was opened at."""
        replica = lease.replica
        return lease.epoch == replica.epoch and replica.state is not State.GONE

    def _weigh(self, replica: Replica, pin: Pin) -> None:
        """What the replica's cache holds now; read off the pin's holding, which is the replica's."""
        holding = pin.replica
        cached, limit, capacity = holding.cached, holding.limit, replica.cells[_CAPACITY]
        if replica.source is Source.EXACT:
            cached = max(cached, self._occupancy.observed_tokens(replica.row))
        elif 0.0 < limit < capacity < _INF:
            # Less of the cache is ours than its size says: full is when our share of it is full.
            cached *= capacity / limit
        self._fleet.weigh(replica, holding.active, cached)
