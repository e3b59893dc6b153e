"""Other routers' requests, from their records: leases in the ledger of the others, for as long as their router lives.

A lease whose router has fallen silent is settled, but its record is kept for a while: should the router beat again
and still name it, it is opened again. Records may come twice; a lease's number counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kvroute.router.core.decide import Deciding
from kvroute.router.core.ledger import Lease
from kvroute.router.core.replica import Replica
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing.records import (
    Beat,
    Malformed,
    Opened,
    Prefilled,
    Record,
    Settled,
    unpack_header,
    unpack_records,
)
from kvroute.scorers.contract import Request

_SAME_LIFE = 1.0
"""Start times that differ by less are one engine's [s]."""


class Held:
    """One open request of another router."""

    __slots__ = ("lease", "opened", "prefilled", "replica")

    def __init__(self, opened: Opened, replica: str) -> None:
        self.opened = opened
        self.replica = replica
        self.prefilled = opened.prefilled
        self.lease: Lease | None = None
        """None while its router is not known to live, or the replica is not here."""


class Peer:
    """What another router has told."""

    __slots__ = ("alive", "beats", "held", "numbers", "since")

    def __init__(self, now: float) -> None:
        self.alive = False
        self.since = now
        """When it came to live, or fell silent [s]."""
        self.beats = 0
        """Number of its last beat."""
        self.held: dict[int, Held] = {}
        self.numbers: dict[str, int] = {}
        """The last entry heard of each replica."""


class Foreign:
    """Applies what other routers tell of their requests. Longer work comes in steps, between which others may run."""

    def __init__(self, deciding: Deciding, router: int) -> None:
        self._deciding = deciding
        self._router = router
        self._peers: dict[int, Peer] = {}
        self._lives: dict[str, float] = {}
        self.sent: Callable[[Replica, Sequence[int]], None] | None = None
        """Hears of requests that another router sends to a replica whose events do not tell all: their keys may tell
        what some of them are about."""
        self.records = 0
        """Records of others taken in."""
        self.gaps = 0
        """Entries of others that were lost on the way."""
        self.repeated = 0
        """Entries that had come before."""
        self.malformed = 0
        """Entries and beats that no router of this version writes."""

    def __len__(self) -> int:
        """Requests of others that are open, and whose routers live."""
        return len(self._deciding.others)

    # --- replicas ---

    def lived(self, replica: str, life: float) -> None:
        """When the replica's engine was started [s since 1970]; what is told of earlier lives counts no more."""
        self._lives[replica] = life

    def left(self, replica: str, now: float) -> Iterator[None]:
        """The replica has left: its leases end here, whatever comes of them."""
        self._lives.pop(replica, None)
        for peer in list(self._peers.values()):
            peer.numbers.pop(replica, None)
            for order in [order for order, held in peer.held.items() if held.replica == replica]:
                self._settle(peer.held.pop(order), now)
                yield

    # --- what others tell ---

    def take(self, replica: str, data: bytes, now: float) -> Iterator[None]:
        """One entry of a replica's Stream; a step is a record."""
        try:
            header = unpack_header(data)
            if header.router == self._router or not self._is_new(replica, header.router, header.number, now):
                return
            peer = self._peers[header.router]
            outlived = bool(header.life) and header.life < self._lives.get(replica, 0.0) - _SAME_LIFE
            for record in unpack_records(data):
                self.records += 1
                self._apply(peer, replica, record, outlived, now)
                yield
        except Malformed:
            self.malformed += 1

    def beat(self, beat: Beat, alive: bool, now: float) -> Iterator[None]:
        """Another router named its open leases; `alive`: just now, not long ago. A step is a lease."""
        peer = self._peer(beat.router, now)
        if beat.number <= peer.beats and not beat.leaving:
            return
        peer.beats = beat.number
        for order in [order for order in peer.held if order <= beat.newest and order not in beat.open]:
            held = peer.held.pop(order, None)
            if held is not None:
                self._settle(held, now)
                yield
        if beat.leaving:
            yield from self.dead(beat.router, now)
            self._peers.pop(beat.router, None)
        elif alive and not peer.alive:
            peer.alive, peer.since = True, now
            for held in list(peer.held.values()):
                self._open(held, now)
                yield

    def dead(self, router: int, now: float) -> Iterator[None]:
        """A router has fallen silent: its load is gone. A step is a lease."""
        peer = self._peer(router, now)
        peer.alive, peer.since = False, now
        for held in list(peer.held.values()):
            if not peer.alive:
                self._settle(held, now)
                yield

    def forget(self, now: float, seconds: float) -> None:
        """Routers that have been silent for so long are not expected back."""
        for router, peer in list(self._peers.items()):
            if not peer.alive and now - peer.since > seconds:
                del self._peers[router]

    # --- inside ---

    def _peer(self, router: int, now: float) -> Peer:
        peer = self._peers.get(router)
        if peer is None:
            peer = self._peers[router] = Peer(now)
        return peer

    def _is_new(self, replica: str, router: int, number: int, now: float) -> bool:
        numbers = self._peer(router, now).numbers
        last = numbers.get(replica)
        if last is not None and number <= last:
            self.repeated += 1
            return False
        if last is not None:
            self.gaps += number - last - 1
        numbers[replica] = number
        return True

    def _apply(self, peer: Peer, replica: str, record: Record, outlived: bool, now: float) -> None:
        held = peer.held.get(record.order)
        if isinstance(record, Opened):
            if held is None and not outlived:
                held = peer.held[record.order] = Held(record, replica)
                if peer.alive:
                    self._open(held, now)
        elif held is None:
            return
        elif isinstance(record, Prefilled):
            held.prefilled = True
            if held.lease is not None:
                self._deciding.others.prefilled(held.lease, now)
        elif isinstance(record, Settled):
            del peer.held[record.order]
            if held.lease is None and record.served:
                self._open(held, now)  # for what it has left in the cache
            self._settle(held, now, record)

    def _open(self, held: Held, now: float) -> None:
        replica = self._deciding.fleet.get(held.replica)
        if replica is None or held.lease is not None:
            return
        opened = held.opened
        request = Request(
            id="",
            model="",
            tokens=opened.tokens,
            keys=opened.key_list(),
            block_tokens=opened.block_tokens,
            sequences=opened.sequences,
            stream=opened.stream,
        )
        if self.sent is not None and replica.source is Source.RECOVERING:
            self.sent(replica, request.keys)
        held.lease = self._deciding.foreign(request, replica, opened.hit, opened.predicted, now)
        if held.prefilled:
            self._deciding.others.prefilled(held.lease, now)

    def _settle(self, held: Held, now: float, settled: Settled | None = None) -> None:
        lease, held.lease = held.lease, None
        if lease is None:
            return
        if settled is None:
            # Its first output tells that its prompt was computed, whatever became of it.
            self._deciding.others.settle(lease, now, completed=False)
        else:
            self._deciding.others.settle(lease, now, completed=settled.served, output_tokens=settled.output_tokens)
