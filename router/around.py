"""Whom the traffic tells and asks: who counts, who watches endpoints, who answers the router's own paths."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

from kvroute.router.dataplane.contract import Endpoint, Head, Outcome, Reply

if TYPE_CHECKING:
    from kvroute.router.exchange import Ending, Exchange


class Observer(Protocol):
    """Who counts and logs what happens to requests."""

    def decided(self, seconds: float) -> None:
        """Hashing, looking up, choosing and reserving took so long."""
        ...

    def began(self, exchange: Exchange) -> None:
        """An attempt at the decided replica begins."""
        ...

    def retried(self, exchange: Exchange) -> None:
        """The attempt failed and another will be made."""
        ...

    def settled(self, exchange: Exchange, outcome: Outcome, end: Ending) -> None:
        """The request is over."""
        ...

    def answered(self, status: int, head: Head | None) -> None:
        """The router answered a request itself, with an error; `head` is None when it had been forwarded before."""
        ...

    def poisoned(self) -> None:
        """Two endpoints failed on one request."""
        ...

    def budget_spent(self) -> None:
        """A try that would have been made was not: the retry budget is spent."""
        ...


class Health(Protocol):
    """Who wants to know whether endpoints answer."""

    def report_failure(self, endpoint: Endpoint, now: float) -> None: ...

    def suspect(self, endpoint: Endpoint) -> None: ...

    def report_success(self, endpoint: Endpoint) -> None: ...


class Local(Protocol):
    """Who answers the router's own paths and spreads management calls."""

    def answer(self, path: bytes) -> Reply | Awaitable[Reply]: ...

    def broadcast(self, head: Head, body: bytes) -> Awaitable[Reply]: ...
