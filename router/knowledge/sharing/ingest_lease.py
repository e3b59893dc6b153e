"""Who listens to which replica's KV events: a lease for each in the store, renewed while its router lives.

The lease spares the engines and the store double work; that two routers never write one log does not depend on it
alone (see `observed_log.py`). A router that cannot reach the store keeps what it holds until the store says otherwise:
it hears the events either way, and what it cannot write harms nobody.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Iterable

import xxhash

from kvroute.router.knowledge.sharing.observed_log import LogNames
from kvroute.router.knowledge.sharing.store import Batch, Drop, Expire, Outcome, Put, Store

TTL_SECONDS = 3.0
"""A dead router's leases are free after so long at most."""
SETTLED_SECONDS = 10.0
"""A lease is held for so long before it is handed to whose it is by right; twice as long each time it comes back."""
_LONGEST_SECONDS = 640.0


def assignment(replicas: Iterable[str], routers: Collection[str]) -> dict[str, str]:
    """Replica -> router: evenly, to within one; the same for all who know the same names, and little of it moves when
    a name comes or goes (rendezvous hashing with bounded loads)."""
    order = sorted(set(replicas), key=lambda replica: (_score(replica), replica))
    if not routers:
        return {}
    room = dict.fromkeys(sorted(routers), -(-len(order) // len(set(routers))))
    found: dict[str, str] = {}
    for replica in order:
        router = max(
            (router for router, left in room.items() if left),
            key=lambda router: _score(f"{router}\n{replica}"),
        )
        room[router] -= 1
        found[replica] = router
    return found


def _score(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))


class IngestLeases:
    """The leases that one router holds. Calls raise `StoreDown` and leave things as they were; try again later."""

    def __init__(self, store: Store, router: str, clock: Callable[[], float], ttl_seconds: float = TTL_SECONDS) -> None:
        """`router`: this router's name, `clock` [s] monotonic."""
        self.held: dict[str, bytes] = {}
        """Replica -> the lease's token. Another one each time that it is won."""
        self._store = store
        self._router = router
        self._clock = clock
        self._ttl_ms = int(ttl_seconds * 1000)
        self.renew_seconds = ttl_seconds / 3
        """How often to `renew`."""
        self.seek_seconds = ttl_seconds / 6
        """How often to `seek`: what is another's by right is left to it for one turn."""
        self._names: dict[str, LogNames] = {}
        self._seen_free: set[str] = set()
        self._since: dict[str, float] = {}
        self._hold: dict[str, float] = {}
        self._given_up: dict[str, float] = {}
        self._assigned: tuple[frozenset[str], frozenset[str], dict[str, str]] = (frozenset(), frozenset(), {})

    def joined(self, replica: str, names: LogNames) -> None:
        """A replica is here; its lease is sought from now on."""
        self._names[replica] = names

    def left(self, replica: str) -> None:
        """A replica is gone; `release` what is held first."""
        for kept in (self._names, self._hold, self._since, self._given_up):
            kept.pop(replica, None)
        self._seen_free.discard(replica)

    def since(self, replica: str) -> float:
        """When what is held was won [s]."""
        return self._since.get(replica, -math.inf)

    async def renew(self) -> list[str]:
        """Prolong what is held; to be called every `renew_seconds`. Replicas whose lease is lost."""
        held = list(self.held.items())
        outcomes = await self._store.commit(
            [
                self._if_ours(replica, token, Expire(self._names[replica].ingest, self._ttl_ms))
                for replica, token in held
            ]
        )
        lost = [
            replica
            for (replica, token), outcome in zip(held, outcomes, strict=True)
            if outcome is not Outcome.DONE and self.held.get(replica) == token
        ]
        for replica in lost:
            del self.held[replica]
        return lost

    def _if_ours(self, replica: str, token: bytes, write: Expire | Drop) -> Batch:
        return Batch([write], given={self._names[replica].ingest: token})

    async def seek(self, live: Collection[str]) -> list[str]:
        """Win free leases; to be called every `seek_seconds`. Replicas whose lease was won.

        `live`: the routers that are there, us included. What is another's by right is left to it the first time that
        it is seen free.
        """
        wanted = [replica for replica in self._names if replica not in self.held]
        values = await self._store.get([self._names[replica].ingest for replica in wanted])
        free = {replica for replica, value in zip(wanted, values, strict=True) if value is None}
        right = self._by_right(live)
        tried = [replica for replica in free if replica in self._seen_free or right.get(replica) == self._router]
        self._seen_free = free
        tokens = [f"{self._router}/{secrets.token_hex(8)}".encode() for _ in tried]
        keys = [self._names[replica].ingest for replica in tried]
        outcomes = await self._store.commit(
            [Batch([Put(key, token, self._ttl_ms)], given={key: None}) for key, token in zip(keys, tokens, strict=True)]
        )
        won: list[str] = []
        for replica, token, outcome in zip(tried, tokens, outcomes, strict=True):
            if outcome is Outcome.DONE and replica in self._names:
                self.held[replica] = token
                self._won(replica)
                free.discard(replica)
                won.append(replica)
        return won

    def _won(self, replica: str) -> None:
        now = self._clock()
        self._since[replica] = now
        hold = self._hold.get(replica, SETTLED_SECONDS)
        came_back = now - self._given_up.get(replica, -math.inf) < hold
        self._hold[replica] = min(2 * hold, _LONGEST_SECONDS) if came_back else SETTLED_SECONDS

    def _by_right(self, live: Collection[str]) -> dict[str, str]:
        replicas, routers = frozenset(self._names), frozenset(live) | {self._router}
        if self._assigned[:2] != (replicas, routers):
            self._assigned = (replicas, routers, assignment(replicas, routers))
        return self._assigned[2]

    def surplus(self, live: Collection[str]) -> str | None:
        """A replica that we hold and that another router should have by now: write what is left, then `release`."""
        now = self._clock()
        right = self._by_right(live)
        for replica in self.held:
            if right.get(replica) != self._router and now - self._since[replica] >= self._hold[replica]:
                return replica
        return None

    async def release(self, replica: str) -> None:
        """Give a lease back: another router may have it at once."""
        token = self.held.pop(replica, None)
        if token is not None:
            self._given_up[replica] = self._clock()
            await self._store.commit([self._if_ours(replica, token, Drop(self._names[replica].ingest))])
