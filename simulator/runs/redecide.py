"""Decides a log's requests again, from the log alone: fresh core objects are told what the live ones were, in the same
order. Equal picks show that the log holds all that decisions rest on, and that live and simulated code are one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from kvroute.router.core.decide import Deciding, Decision, Reason
from kvroute.router.core.decided import Attempt, Began, Decided, Line, Looked, Member, Reading, Resident
from kvroute.router.core.fleet import Fleet
from kvroute.router.core.index import Index
from kvroute.router.core.outside import Outside
from kvroute.router.core.replica import Spec, State
from kvroute.scorers.contract import Column, Request, Role
from kvroute.scorers.plugins import load_policy


class Again(NamedTuple):
    """One decision of the log, taken again."""

    record: Decided
    attempt: int
    """Which of its attempts, from 0."""
    replica: str
    """What was chosen now; empty: nobody could be."""
    predicted_ttft: float
    recorded: str
    """What was chosen then."""
    whole: bool
    """All that had happened before in its router's life is in the log."""

    @property
    def same(self) -> bool:
        """Now is as then."""
        return self.replica == self.recorded


def redecide(lines: Iterable[Line]) -> Iterator[Again]:
    """Every decision of a log whose lines have their router's own times, in order; each life of a router begins anew.

    Where another replica is chosen than then, the request goes where it went then, so that one difference does not
    make all that follow. Not in the log, so differences are to be expected where they matter: what KV events told, what
    other routers sent, and what was known before the log's beginning.

    Raises:
        PluginError: the policy that it was written with is not here.
    """
    began: Began | None = None
    life: list[Line] = []
    for line in lines:
        if isinstance(line, Began):
            if began is not None:
                yield from _Life(began).decide(life)
            began, life = line, []
        else:
            life.append(line)
    if began is not None:
        yield from _Life(began).decide(life)


class _Life:
    """One router, from the first line of its log on."""

    def __init__(self, began: Began) -> None:
        policy, rng = load_policy(began.policy), np.random.default_rng(began.seed)
        self._deciding = Deciding(Fleet(began.step), Index(), policy, rng, began.fetch_seconds)
        self._last = began.order
        self._whole = began.order == 0
        self._outside = Outside(self._deciding.fleet)
        self._under_way: dict[int, tuple[Request, Decision]] = {}
        self._found: list[Again] = []

    def decide(self, lines: Iterable[Line]) -> Iterator[Again]:
        """All decisions, as they come."""
        events = sorted(_events(self, lines), key=lambda event: event[0])
        for order, act in events:
            self._whole = self._whole and order == self._last + 1
            self._last = order
            act()
            yield from self._found
            self._found.clear()

    # --- the fleet ---

    def member(self, line: Member) -> None:
        """A replica came, went or changed."""
        fleet, deciding = self._deciding.fleet, self._deciding
        known = fleet.get(line.name) is not None
        if line.what in ("join", "here") and not known:
            replica = fleet.join(_spec(line), line.at)
            if line.capacity_tokens is not None:
                fleet.write(replica, Column.CAPACITY_TOKENS, line.capacity_tokens)
                deciding.occupancy.set_capacity(replica.row, line.capacity_tokens)
            if line.state != replica.state.value:
                fleet.move(replica, State(line.state))
            return
        found = fleet.get(line.name)
        if found is None:  # its coming was lost
            return
        if line.what in ("join", "here", "change"):
            fleet.update(found, _spec(line))
        elif line.what == "state":
            if line.state != found.state.value:
                fleet.move(found, State(line.state))
        else:
            if line.what == "leave":
                self._outside.forget(found)
            deciding.drop(found)
            if line.what == "leave":
                deciding.occupancy.leave(found.row)
                fleet.move(found, State.GONE)
            else:
                self._outside.forget(found)

    def reading(self, line: Reading) -> None:
        """A look at a replica's metrics."""
        deciding = self._deciding
        replica = deciding.fleet.get(line.name)
        if replica is None:
            return
        deciding.estimate.engine_sums(replica, line.prefill_seconds, line.computed_tokens)
        if line.capacity_tokens is not None:
            deciding.fleet.write(replica, Column.CAPACITY_TOKENS, line.capacity_tokens)
        limit = math.inf if line.limit_tokens is None else line.limit_tokens
        deciding.occupancy.set_capacity(replica.row, limit)
        if line.outside is not None:
            self._outside.apply(replica, *line.outside)

    def resident(self, line: Resident) -> None:
        """Other adapters are on a replica's device."""
        replica = self._deciding.fleet.get(line.name)
        if replica is not None:
            adapters = None if line.adapters is None else frozenset(line.adapters)
            self._deciding.fleet.set_resident(replica, adapters)

    def looked(self, line: Looked) -> None:
        """Loads were brought up to date."""
        self._deciding.ledger.advance(line.at)
        self._deciding.fleet.advance(line.at)

    # --- a request's way ---

    def decided(self, record: Decided, attempt: Attempt | Decided, number: int) -> None:
        """One of its attempts begins."""
        deciding, request = self._deciding, record.request()
        now, then = attempt.decided, attempt.replica
        if attempt.pinned and (home := deciding.fleet.get(then)) is not None:
            self._under_way[id(record)] = request, deciding.at(request, home, now)
            return
        decision = deciding.decide(request, now, frozenset(attempt.tried))
        if isinstance(decision, Reason):
            self._found.append(Again(record, number, "", math.nan, then, self._whole))
        else:
            again = Again(record, number, decision.replica.name, decision.predicted_ttft, then, self._whole)
            self._found.append(again)
            if decision.replica.name == then:
                self._under_way[id(record)] = request, decision
                return
            deciding.settle(request, decision, now, completed=False)
        home = deciding.fleet.get(then)
        if home is not None:
            self._under_way[id(record)] = request, deciding.at(request, home, now)

    def first_output(self, record: Decided) -> None:
        """The first output of its stream has passed."""
        held = self._under_way.get(id(record))
        if held is not None and record.first is not None:
            self._deciding.ledger.first_output(held[1].lease, record.first)

    def failed(self, record: Decided, attempt: Attempt | Decided) -> None:
        """The attempt came to nothing."""
        held = self._under_way.pop(id(record), None)
        if held is not None:
            self._deciding.settle(*held, attempt.ended, completed=False)

    def settled(self, record: Decided) -> None:
        """It is over."""
        held = self._under_way.pop(id(record), None)
        if held is None:
            return
        request, decision = held
        if record.cached_tokens is not None and record.prompt_tokens is not None and record.sequences == 1:
            self._deciding.reported(decision, record.cached_tokens, record.prompt_tokens)
        completed = record.outcome == "completed" and record.status < 400
        output = record.output_tokens or 0
        self._deciding.settle(request, decision, record.ended, completed=completed, output_tokens=output)


def _events(life: _Life, lines: Iterable[Line]) -> Iterator[tuple[int, Callable[[], None]]]:
    """(number, what happened) of everything that the lines tell."""
    for line in lines:
        if isinstance(line, Decided):
            yield from _of_request(life, line)
        elif isinstance(line, Member):
            # Those that a file begins with were there before all that it tells.
            yield 0 if line.what == "here" else line.order, lambda line=line: life.member(line)  # type: ignore[misc]
        elif isinstance(line, Reading):
            yield line.order, lambda line=line: life.reading(line)  # type: ignore[misc]
        elif isinstance(line, Resident):
            yield line.order, lambda line=line: life.resident(line)  # type: ignore[misc]
        elif isinstance(line, Looked):
            yield line.order, lambda line=line: life.looked(line)  # type: ignore[misc]


def _of_request(life: _Life, record: Decided) -> Iterator[tuple[int, Callable[[], None]]]:
    for number, attempt in enumerate(record.earlier):
        begun, ended = attempt.orders
        yield begun, lambda attempt=attempt, number=number: life.decided(record, attempt, number)  # type: ignore[misc]
        yield ended, lambda attempt=attempt: life.failed(record, attempt)  # type: ignore[misc]
    begun, first, ended = record.orders
    yield begun, lambda: life.decided(record, record, len(record.earlier))
    if first:
        yield first, lambda: life.first_output(record)
    if record.failure:
        yield ended, lambda: life.failed(record, record)
    elif record.outcome != "refused":
        yield ended, lambda: life.settled(record)


def _spec(line: Member) -> Spec:
    return Spec(
        name=line.name, endpoint=line.endpoint, models=line.models, adapters=frozenset(line.adapters), rank=line.rank,
        role=Role[line.role.upper()], slots=line.slots, labels=line.labels,
    )  # fmt: skip
