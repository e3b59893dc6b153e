"""Several routers in one process, over one store, on a clock that only tests move."""

from __future__ import annotations

from kvroute.router.core.decide import Deciding, Decision
from kvroute.router.knowledge.sharing.sharing import Settings, Sharing
from kvroute.router.knowledge.sharing.store import Store
from kvroute.scorers.contract import Column, Request
from tests.router.core.deciding import sent, world


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Router:
    """One of several, with replicas r0, r1... It tells and hears when it is told to."""

    def __init__(
        self, store: Store, clock: Clock, id: int, replicas: int = 2, settings: Settings | None = None
    ) -> None:
        self.deciding: Deciding = world(replicas)
        self.clock = clock
        self.sharing = Sharing(self.deciding, store, settings, clock, router=id)
        for replica in self.deciding.fleet:
            self.sharing.joined(replica.name)

    async def begin(self) -> None:
        """What `start` would do first."""
        await self.sharing.beat()
        await self.sharing.warming.warm_up()

    def decide(self, request: Request) -> Decision:
        return sent(self.deciding.decide(request, self.clock()))

    def end(self, request: Request, decision: Decision, *, completed: bool = True, output_tokens: int = 0) -> None:
        """The request's first output, and its end."""
        if completed:
            self.deciding.ledger.first_output(decision.lease, self.clock())
        self.deciding.settle(request, decision, self.clock(), completed=completed, output_tokens=output_tokens)

    async def tell(self) -> None:
        while await self.sharing.telling.flush():
            pass

    async def hear(self) -> None:
        await self.sharing.following.catch_up()

    async def beat(self) -> None:
        await self.sharing.beat()
        await self.sharing.sweep()

    def column(self, column: Column) -> list[float]:
        """One number of each replica."""
        return [replica.cells[column] for replica in self.deciding.fleet]


async def talk(*routers: Router) -> None:
    """All tell what they have, then all hear it."""
    for router in routers:
        await router.tell()
    for router in routers:
        await router.hear()
