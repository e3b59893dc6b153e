"""The decision log: makes its lines as requests go their way and the fleet changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from kvroute.router.control.lines import Lines
from kvroute.router.control.series import LineCounts
from kvroute.router.core.decided import (
    VERSION,
    Attempt,
    Began,
    Decided,
    Line,
    Looked,
    Member,
    Reading,
    Resident,
)
from kvroute.router.parse import PATHS, Kind
from kvroute.scorers.contract import Column

if TYPE_CHECKING:
    from kvroute.router.core.replica import Replica
    from kvroute.router.dataplane.contract import Failure, Outcome
    from kvroute.router.exchange import Exchange
    from kvroute.router.usage import Usage
    from kvroute.scorers.contract import Request

_INF = math.inf


class DecisionLog:
    """One router's log. All but `start` and `close` return at once."""

    def __init__(
        self, path: str, began: Callable[[float, float, int], Began], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`began` makes a file's first line of the time of day, the clock and the last event's number."""
        self._lines = Lines(path, self._beginning, clock)
        self._put = self._lines.put
        self._began = began
        self._clock = clock
        self._order = 0
        self._members: dict[str, Member] = {}
        self._start: Began | None = None

    @property
    def path(self) -> str:
        """Where it is written."""
        return self._lines.path

    @property
    def counts(self) -> LineCounts:
        """Lines written, and those that could not be."""
        return self._lines.counts

    def start(self) -> None:
        """Begin. Events are numbered from here on: call it before anything is decided.

        Raises:
            OSError: the file cannot be had.
        """
        self._lines.check()
        self._start = self._began(time.time(), self._clock(), 0)
        self._lines.start()

    async def close(self) -> None:
        """Write what waits."""
        await self._lines.close()

    def _beginning(self) -> Iterator[Line]:
        """A file's first lines."""
        start, self._start = self._start, None
        if start is not None:
            yield start
            return
        yield self._began(time.time(), self._clock(), self._order)
        for member in self._members.values():
            yield _as(member, "here")

    # --- a request's way ---

    def decided(self, exchange: Exchange, pinned: bool, tried: frozenset[str]) -> None:
        """It is about to be sent to the replica of its decision."""
        decision = exchange.decision
        request, replica = exchange.request, decision.replica
        self._order = order = self._order + 1
        record = exchange.record
        if record is None:
            record = exchange.record = _record(request, exchange.arrived)
            record.kind = PATHS.get(exchange.path, Kind.OTHER).value
        record.orders = (order, 0, 0)
        record.decided = decision.lease.opened
        record.replica = replica.name
        record.hit_tokens = round(decision.hit_tokens, 3)
        record.best_hit_tokens = round(decision.best_hit_tokens, 3)
        record.predicted_ttft = round(decision.predicted_ttft, 7)
        record.knowledge = replica.source.value
        record.pinned = pinned
        if tried:
            record.tried = tuple(sorted(tried))

    def first_output(self, record: Decided, now: float) -> None:
        """The first output of its stream has passed."""
        self._order += 1
        record.first = now
        record.orders = (record.orders[0], self._order, 0)

    def failed(self, record: Decided, failure: Failure, now: float) -> None:
        """An attempt failed; whether another follows is seen later."""
        self._order += 1
        record.failure = failure.value
        record.ended = now
        record.orders = (*record.orders[:2], self._order)

    def again(self, record: Decided) -> None:
        """Another attempt follows the one that failed."""
        orders = (record.orders[0], record.orders[2])
        failed = Attempt(
            record.replica, record.decided, record.ended, orders, record.failure, record.tried, record.pinned
        )
        record.earlier = (*record.earlier, failed)
        record.attempts += 1
        record.failure = ""
        record.tried = ()

    def settled(self, record: Decided, outcome: Outcome, status: int, usage: Usage | None, now: float) -> None:
        """It is over."""
        if not record.failure:
            self._order += 1
            record.ended = now
            record.orders = (*record.orders[:2], self._order)
        record.outcome = outcome.value
        record.status = status
        if usage is not None:
            record.prompt_tokens = usage.prompt
            record.output_tokens = usage.completion
            record.cached_tokens = usage.cached
        self._put(record)

    def refused(self, request: Request, now: float) -> None:
        """No replica could be chosen for it."""
        record = _record(request, now)
        record.decided = record.ended = now
        self._order += 1
        record.orders = (self._order, 0, 0)
        record.outcome = "refused"
        record.attempts = 0
        self._put(record)

    # --- what the fleet does ---

    def joined(self, replica: Replica) -> None:
        """A replica was added."""
        self._tell("join", replica, replica.since)

    def changed(self, replica: Replica) -> None:
        """What it serves may have changed."""
        self._tell("change", replica, self._clock())

    def moved(self, replica: Replica) -> None:
        """It has taken a step of its life."""
        self._tell("state", replica, self._clock())

    def restarted(self, replica: Replica) -> None:
        """Its engine is another one."""
        self._tell("restart", replica, self._clock())

    def left(self, replica: Replica) -> None:
        """It is gone."""
        self._tell("leave", replica, self._clock())
        self._members.pop(replica.name, None)

    def resident(self, replica: Replica) -> None:
        """Other adapters are on its device."""
        held = None if replica.resident is None else tuple(sorted(replica.resident))
        self._order += 1
        self._put(Resident(VERSION, self._order, self._clock(), replica.name, held))

    def read(self, reading: Reading) -> None:
        """A look at its metrics that changed something; number and time are put in here."""
        self._order += 1
        reading.order, reading.at = self._order, self._clock()
        member = self._members.get(reading.name)
        if member is not None:
            capacity, block = reading.capacity_tokens, reading.block_tokens
            self._members[reading.name] = msgspec.structs.replace(  # the line that waits stays as it is
                member,
                capacity_tokens=member.capacity_tokens if capacity is None else capacity,
                block_tokens=member.block_tokens if block is None else block,
            )
        self._put(reading)

    def looked(self, now: float) -> None:
        """The fleet's load was brought up to `now` for somebody to look at."""
        self._order += 1
        self._put(Looked(VERSION, self._order, now))

    def _tell(self, what: str, replica: Replica, now: float) -> None:
        before = self._members.get(replica.name)
        member = _member(what, replica, self._order + 1, now, before)
        if what == "change" and before is not None and _same(before, member):
            return
        self._order += 1
        self._members[replica.name] = member
        self._put(member)


def _record(request: Request, arrived: float) -> Decided:
    return Decided(
        VERSION, request.id, arrived, 0.0, 0.0, (0, 0, 0), "failed",
        model=request.model, adapter=request.adapter, tokens=request.tokens, block_tokens=request.block_tokens,
        keys=request.keys, anchor=request.anchor, session=request.session, priority=request.priority,
        sequences=request.sequences, stream=request.stream, max_output_tokens=request.max_output_tokens,
    )  # fmt: skip


def _member(what: str, replica: Replica, order: int, now: float, before: Member | None) -> Member:
    spec = replica.spec
    capacity = replica.cells[Column.CAPACITY_TOKENS]
    return Member(
        VERSION, order, now, what, replica.name, spec.endpoint, replica.state.value, spec.role.name.lower(),  # type: ignore[arg-type]
        spec.slots, spec.models, tuple(sorted(spec.adapters)), spec.rank, dict(spec.labels),
        capacity if capacity < _INF else None, None if before is None else before.block_tokens, replica.source.value,
    )  # fmt: skip


def _as(member: Member, what: Literal["here"]) -> Member:
    return msgspec.structs.replace(member, what=what)


def _same(one: Member, other: Member) -> bool:
    """They differ in number, time and event alone."""
    return one == msgspec.structs.replace(other, order=one.order, at=one.at, what=one.what)
