"""What waited for what in a recorded session."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kvroute.simulator.workloads.order import Placed, placed
from kvroute.simulator.workloads.recorded import Session


def turn(t: float, api: float | None = 10.0, out: int = 100) -> dict[str, Any]:
    """A request at t whose answer took `api` seconds."""
    return {"t": t, "type": "n", "in": 64, "out": out, "hash_ids": [1]} | ({} if api is None else {"api_time": api})


def subagent(begun: float, ended: float, *turns: dict[str, Any]) -> dict[str, Any]:
    """A sub-agent whose result came at `ended`; its turns count from its start."""
    return {"t": ended, "type": "subagent", "duration_ms": (ended - begun) * 1e3, "requests": list(turns)}


def order(*entries: dict[str, Any]) -> list[Placed]:
    """The session's requests in order."""
    return placed(msgspec.convert({"id": "s", "block_size": 64, "requests": list(entries)}, Session))


def told(requests: list[Placed]) -> list[tuple[int, tuple[int, ...], float]]:
    """Lane, needs and think time of each."""
    return [(one.lane, one.needs, round(one.think, 3)) for one in requests]


def test_a_turn_is_sent_a_think_time_after_the_answer_before() -> None:
    """The pause between the end of one and the start of the next."""
    assert told(order(turn(0), turn(15), turn(40, 2.5))) == [(0, (), 0.0), (0, (0,), 5.0), (0, (1,), 15.0)]


def test_turns_that_overlap_follow_at_once() -> None:
    """A recorded turn that began before the answer it follows has no think time."""
    assert told(order(turn(0), turn(7))) == [(0, (), 0.0), (0, (0,), 0.0)]


def test_an_unknown_answer_time_is_estimated_by_the_sessions_pace() -> None:
    """0.1 s a token here; and never beyond the next turn."""
    requests = order(turn(0), turn(20, None, 50), turn(30), turn(50, None, 500), turn(60))
    assert [round(one.ended, 3) for one in requests] == [10.0, 25.0, 40.0, 60.0, 70.0]
    assert [round(one.think, 3) for one in requests] == [0.0, 10.0, 5.0, 10.0, 0.0]


def test_no_answer_time_at_all() -> None:
    """20 ms a token."""
    assert [one.ended for one in order(turn(0, None), turn(30, None))] == [2.0, 32.0]


def test_subagents_side_by_side_start_with_their_parents_answer() -> None:
    """Both wait for the parent's turn; its next turn waits for both."""
    requests = order(turn(0), subagent(10.2, 25, turn(0, 3), turn(5, 4)), subagent(10.2, 31, turn(0, 18)), turn(33))
    assert told(requests) == [
        (0, (), 0.0),
        (1, (0,), 0.2),
        (2, (0,), 0.2),
        (1, (1,), 2.0),
        (0, (0, 3, 2), 4.8),
    ]


def test_subagents_in_sequence_wait_for_each_other() -> None:
    """The second began when the first had come back."""
    requests = order(turn(0), subagent(11, 21, turn(0, 9)), subagent(24, 40, turn(0, 15)), turn(41))
    assert told(requests) == [(0, (), 0.0), (1, (0,), 1.0), (2, (1,), 4.0), (0, (0, 1, 2), 2.0)]


def test_a_parent_that_went_on_does_not_wait() -> None:
    """A sub-agent that came back later is waited for by the first turn after that."""
    requests = order(turn(0), turn(15), subagent(10, 60, turn(0, 45)), turn(70))
    assert [(one.lane, one.needs) for one in requests] == [(0, ()), (1, (0,)), (0, (0,)), (0, (2, 1))]


def test_a_subagent_before_everything_begins_the_session() -> None:
    """There is nothing that it could wait for."""
    requests = order(subagent(0, 10, turn(0, 9)), turn(12))
    assert told(requests) == [(1, (), 0.0), (0, (0,), 3.0)]


@pytest.mark.parametrize("shift", [0.0, 0.4, 0.9])
def test_rounded_times_are_forgiven(shift: float) -> None:
    """A trace of whole seconds may say that a sub-agent began a little before the answer that started it."""
    requests = order(turn(0, 10.0), subagent(10 - shift, 20, turn(0, 8)), turn(22))
    assert requests[1].needs == (0,)
    assert requests[1].think == 0.0
