"""A log's decisions taken again: fleets that change, attempts that fail, picks that differ."""

from __future__ import annotations

from pathlib import Path

from kvroute.router.core.decided import VERSION, Attempt, Line, Looked, Reading, Resident
from kvroute.simulator.runs.redecide import Again, redecide
from kvroute.simulator.workloads.decisions import lines
from tests.simulator.workloads.logs import began, day, member, request


def picks(*told: Line) -> list[Again]:
    """What is chosen now."""
    return list(redecide([began(), *told]))


def sent(order: int, replica: str = "r0", at: float = 1.0, **fields: object) -> Line:
    """A request whose events are numbered from `order` on."""
    one = request(at, range(4), replica=replica, **fields)
    one.orders = (order, order + 1, order + 2)
    return one


def test_who_is_gone_is_not_chosen() -> None:
    """Replicas come, drain, restart and leave between decisions, by number and not by line."""
    found = picks(
        sent(10), sent(30, at=3.0, replica="r1"), member("r0", order=1), member("r1", "join", "joining", order=2),
        member("r1", "state", "ready", order=20), member("r0", "restart", order=21),
        member("r0", "leave", "gone", order=22), member("unknown", "state", order=23),
    )  # fmt: skip
    assert [(again.replica, again.same) for again in found] == [("r0", True), ("r1", True)]


def test_one_difference_does_not_make_the_next() -> None:
    """A request that would go elsewhere now goes where it went then."""
    found = picks(member("r0", order=1), member("r1", order=2), sent(3, "r1"), sent(6, "r1", at=2.0))
    assert [(again.replica, again.recorded) for again in found] == [("r0", "r1"), ("r1", "r1")]


def test_attempts_are_taken_again_one_by_one() -> None:
    """With what they must not be sent to; what was pinned is no decision."""
    failed = Attempt("r0", 1.0, 1.1, (3, 4), "cut")
    retried = sent(5, "r1", decided=1.2, earlier=(failed,), attempts=2, tried=("r0",))
    pinned = sent(8, "r0", at=2.0, pinned=True)
    found = picks(member("r0", order=1), member("r1", order=2), retried, pinned)
    assert [(again.attempt, again.replica, again.same) for again in found] == [(0, "r0", True), (1, "r1", True)]


def test_nobody_is_chosen_where_nobody_is() -> None:
    """A refusal is the same refusal."""
    (again,) = picks(member("r0", "join", "joining"), sent(2, "", outcome="refused"))
    assert (again.replica, again.same) == ("", True)


def test_load_of_others_counts() -> None:
    """Readings, adapters and looks are told as they were."""
    found = picks(
        member("r0", order=1), member("r1", order=2), Resident(VERSION, 3, 0.5, "r0", ()), Looked(VERSION, 4, 0.6),
        Reading(VERSION, 5, 0.7, "r0", 0.5, 1000.0, 16_000.0, 16, 8000.0, (3.0, 5.0, 900.0)), sent(6, "r1"),
        Reading(VERSION, 9, 0.7, "nobody"), Resident(VERSION, 10, 0.7, "nobody"),
    )  # fmt: skip
    assert [again.replica for again in found] == ["r1"]


def test_each_life_begins_with_nothing(tmp_path: Path) -> None:
    """What one router knew the next did not."""
    path = day(tmp_path / "log", 12)
    day(tmp_path / "log", 12)
    found = list(redecide(lines(path)))
    assert [again.replica for again in found[:12]] == [again.replica for again in found[12:]]


def test_a_past_that_is_not_whole_is_known() -> None:
    """From the first number on that is missing; nothing is sure of a file that does not begin with its router."""
    told = [member("r0", order=1), sent(2), sent(6, at=2.0)]
    assert [again.whole for again in picks(*told)] == [True, False]
    late = began()
    late.order = 1
    assert [again.whole for again in redecide([late, member("r0", "here", order=1), sent(2)])] == [False]


def test_who_is_told_twice_is_there_once() -> None:
    """A file that begins while a replica's coming still waits to be written tells of it twice."""
    found = picks(member("r0", "here", order=9), member("r0", "join", order=2), sent(10))
    assert [again.replica for again in found] == ["r0"]
