"""What this router tells the others of its requests: a `Journal` that queues records, and hands them out in batches.

The queue is bounded. Should it overflow, or a batch be in doubt, all open requests are told anew; what the others know
too much of, they find in the next beat (`presence.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from kvroute.router.core.ledger import Lease
from kvroute.router.knowledge.sharing import records
from kvroute.scorers.contract import Request

MOST_RECORDS = 200_000
"""Records that wait at most."""
MOST_BYTES = 32 << 20
"""Bytes that wait at most, as they will be on the wire: 4 million keys."""
BATCH_BYTES = 128 << 10
"""Bytes of one batch: less than a millisecond to pack, and as much to take in."""
_SMALL = 24
"""About the size of a record without keys [bytes]."""
_LONG_SECONDS = 1e6


class Own:
    """One open request of this router's."""

    __slots__ = ("hit", "order", "predicted", "prefilled", "replica", "request")

    def __init__(self, order: int, replica: str, request: Request, hit: float, predicted: float) -> None:
        self.order = order
        self.replica = replica
        self.request = request
        self.hit = hit
        self.predicted = predicted
        self.prefilled = False


class Told(msgspec.Struct, frozen=True, gc=False):
    """What a record will be made of when its time comes; None as `served`: the prefill is over."""

    own: Own
    opened: bool = False
    served: bool | None = None
    output_tokens: int = 0


class Page(msgspec.Struct, frozen=True):
    """One entry for one replica's Stream."""

    replica: str
    data: bytes
    records: int


Life: TypeAlias = Callable[[str], float]
"""Replica name -> when its engine was started, as far as known."""


class ExpectedLog:
    """Implements the ledger's `Journal`. Nothing in it waits."""

    def __init__(self, router: int, life: Life) -> None:
        self._router = router
        self._life = life
        self.wake: Callable[[], None] = lambda: None
        """Called when the first record waits."""
        self._queue: deque[Told] = deque()
        self._batch: list[Page] = []
        self._numbers: dict[str, int] = {}
        self._spent = 0
        """Numbers up to here may have been used for replicas that were forgotten."""
        self.open: dict[int, Own] = {}
        """This router's open requests by their leases' numbers."""
        self.newest = 0
        """The last lease's number."""
        self.waiting_bytes = 0
        """Of what is queued, as it will be on the wire [bytes]."""
        self.dropped = 0
        """Records that were never told, for lack of room."""
        self.doubt = False
        """Records may be lost: all open requests are to be told anew."""

    # --- the ledger's journal ---

    def opened(self, lease: Lease, request: Request, predicted: float) -> None:
        """A request of ours is about to be sent."""
        self.newest = order = lease.order
        hit = max(0.0, request.tokens - lease.tokens)
        own = self.open[order] = Own(order, lease.replica.name, request, hit, min(predicted, _LONG_SECONDS))
        self._tell(Told(own, True))

    def prefilled(self, lease: Lease) -> None:
        """Its prefill is over."""
        own = self.open.get(lease.order)
        if own is not None:
            own.prefilled = True
            self._tell(Told(own))

    def settled(self, lease: Lease, served: bool, output_tokens: int) -> None:
        """It is over."""
        own = self.open.pop(lease.order, None)
        if own is not None:
            self._tell(Told(own, False, served, output_tokens))

    # --- batches ---

    def __len__(self) -> int:
        """Records that wait."""
        return len(self._queue)

    def _tell(self, told: Told) -> None:
        queue = self._queue
        if not queue:
            self.wake()
        queue.append(told)
        self.waiting_bytes += _size(told)
        if len(queue) > MOST_RECORDS or self.waiting_bytes > MOST_BYTES:
            self.waiting_bytes -= _size(queue.popleft())
            self.dropped += 1
            self.doubt = True

    def batch(self) -> Sequence[Page]:
        """One page for each replica that the oldest records are about: the same ones until `sent`."""
        if not self._batch and self._queue:
            self._batch = self._pages()
        return self._batch

    def sent(self) -> None:
        """The batch has arrived."""
        self._batch = []

    def tell_again(self) -> None:
        """Tell all open requests anew: others may have dropped them, or never have heard of them."""
        self.doubt = False
        for own in self.open.values():
            self._tell(Told(own, True))

    def _pages(self) -> list[Page]:
        written: dict[str, list[bytes]] = {}
        queue, size = self._queue, 0
        while queue and size < BATCH_BYTES:
            told = queue.popleft()
            size += _size(told)
            written.setdefault(told.own.replica, []).append(_pack(told))
        self.waiting_bytes -= size
        return [self._page(replica, packed) for replica, packed in written.items()]

    def _page(self, replica: str, packed: list[bytes]) -> Page:
        number = self._numbers[replica] = self._numbers.get(replica, self._spent) + 1
        header = records.pack_header(records.Header(self._router, number, self._life(replica)))
        return Page(replica, b"".join((header, *packed)), len(packed))

    def forget(self, replica: str) -> None:
        """The replica has left. Should its name come back, its pages are numbered on: others may remember the last."""
        self._spent = max(self._spent, self._numbers.pop(replica, 0))


def _size(told: Told) -> int:
    return _SMALL + 8 * len(told.own.request.keys) if told.opened else _SMALL


def _pack(told: Told) -> bytes:
    own = told.own
    if told.opened:
        request = own.request
        return records.pack_opened(
            own.order,
            request.tokens,
            own.hit,
            own.predicted,
            request.block_tokens,
            request.sequences,
            request.keys,
            stream=request.stream,
            prefilled=own.prefilled,
        )
    if told.served is None:
        return records.pack_prefilled(own.order)
    return records.pack_settled(own.order, told.served, told.output_tokens)
