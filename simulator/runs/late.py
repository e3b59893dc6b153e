"""What routers hear late: KV events, each other's requests, and load that only /metrics shows."""

from __future__ import annotations

from collections.abc import Sequence

from kvroute.router.core.outside import READINGS
from kvroute.simulator.engine.contract import Changed, Replica
from kvroute.simulator.engine.step import Change
from kvroute.simulator.runs.router import Router
from kvroute.simulator.runs.scenario import Lateness
from kvroute.simulator.runs.timers import Timers
from kvroute.simulator.runs.underway import Open


class Events:
    """KV events on their way from the engines to every router."""

    def __init__(self, routers: Sequence[Router], lateness: Lateness, timers: Timers) -> None:
        self._routers = routers
        self._seconds = lateness.event_seconds
        self._timers = timers

    def sent(self, row: int, changes: Sequence[Changed]) -> None:
        """A replica's steps have changed its cache."""
        for changed in changes:
            self._timers.at(changed.time + self._seconds, self._heard, row, changed.changes)

    def _heard(self, now: float, row: int, changes: list[Change]) -> None:
        for router in self._routers:
            router.heard(row, changes, now)


class Sharing:
    """Each router's requests, told to the others: in order, each after the same time."""

    def __init__(self, routers: Sequence[Router], seconds: float, timers: Timers) -> None:
        self._routers = routers
        self._seconds = seconds
        self._timers = timers

    def opened(self, opened: Open, now: float) -> None:
        """It was sent."""
        self._timers.at(now + self._seconds, self._open, opened)

    def prefilled(self, opened: Open, now: float) -> None:
        """Its first token was seen."""
        self._timers.at(now + self._seconds, self._prefilled, opened)

    def settled(self, opened: Open, output: int, now: float) -> None:
        """It is over, with so many tokens; 0: it was refused."""
        self._timers.at(now + self._seconds, self._settled, opened, output)

    def _open(self, now: float, opened: Open) -> None:
        decision, request = opened.decision, opened.job.request
        row, hit, predicted = decision.replica.row, decision.hit_tokens, decision.predicted_ttft
        opened.foreign = [
            (router, router.foreign(request, row, hit, predicted, now))
            for router in self._routers
            if router is not opened.router
        ]

    def _prefilled(self, now: float, opened: Open) -> None:
        for router, lease in opened.foreign:
            router.deciding.others.prefilled(lease, now)

    def _settled(self, now: float, opened: Open, output: int) -> None:
        for router, lease in opened.foreign:
            router.deciding.others.settle(lease, now, completed=output > 0, output_tokens=output)


class Scrapes:
    """Readings of every replica's metrics, by all routers at once."""

    def __init__(self, routers: Sequence[Router], engines: Sequence[Replica], lateness: Lateness) -> None:
        self._routers = routers
        self._engines = engines
        self._every = lateness.scrape_seconds
        self._prefill = [0.0] * len(engines)
        self._computed = [0] * len(engines)
        self._quiet = 0
        self.next = 0.5 * self._every
        """When the next is due [s]."""

    def finished(self, row: int, seconds: float, tokens: int) -> None:
        """A request has ended there whose prefill took so long, for so many prompt tokens that were not cached."""
        self._prefill[row] += seconds
        self._computed[row] += tokens
        self._quiet = 0

    def take(self, now: float) -> None:
        """All readings due by `now`. Nothing has happened since the first of them."""
        while self.next <= now:
            self.next += self._every
            for row, engine in enumerate(self._engines):
                for router in self._routers:
                    router.scraped(row, engine.running, engine.waiting, self._prefill[row], self._computed[row])
            self._quiet += 1
            if self._quiet > READINGS:  # more of the same would change nothing
                self.next += (now - self.next) // self._every * self._every if now > self.next else 0.0
