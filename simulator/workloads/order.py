"""What waited for what in a recorded session: turns for the answer before them and for sub-agents, sub-agents for the
turn that started them."""

from __future__ import annotations

import msgspec

from kvroute.simulator.workloads.recorded import Entry, Session

ROUNDING = 1.0
"""The trace gives whole seconds: what ended so much after another began may have ended before it [s]."""
TOKEN_SECONDS = 0.02
"""Of an answer whose time is not recorded, in a session where none is [s/token]."""


class Placed(msgspec.Struct, gc=False):
    """A recorded request in its session."""

    entry: Entry
    lane: int
    """0: the session's own turns; from 1: its sub-agents."""
    begun: float
    ended: float
    think: float = 0.0
    needs: tuple[int, ...] = ()
    """Places of what it waited for."""


def placed(session: Session) -> list[Placed]:
    """All requests by the time at which they were sent; each needs earlier ones only.

    A turn is sent when the turn before it, and the sub-agents that had come back by then, are answered. A sub-agent
    starts when whatever ended last before it has ended: its parent's turn where several run side by side, another
    sub-agent where they run in sequence. (`think_time` of the trace counts from the last answer whose time is known, so
    it is not used.) The few turns that overlap follow each other at once.
    """
    pace = _pace(session)
    lanes = [_timed([entry for entry in session.requests if entry.type != "subagent"], 0, 0.0, pace)]
    agents = [entry for entry in session.requests if entry.type == "subagent"]
    returned = [agent.t for agent in agents]
    for lane, agent in enumerate(agents, 1):
        begun = max(0.0, agent.t - (agent.duration_ms or 0.0) / 1e3)
        lanes.append(_timed(agent.requests, lane, begun, pace))
    found = sorted((one for lane in lanes for one in lane), key=lambda one: (one.begun, one.lane))
    _link(found, returned)
    return found


def _pace(session: Session) -> float:
    """Seconds per output token of the answers whose time is known."""
    seconds = tokens = 0.0
    for entry in session.requests:
        if entry.type != "subagent" and entry.api_time is not None:
            seconds += entry.api_time
            tokens += entry.out
    return seconds / tokens if tokens else TOKEN_SECONDS


def _timed(entries: list[Entry], lane: int, start: float, pace: float) -> list[Placed]:
    """When each of a lane began and ended; an unknown end is estimated, and before the next began."""
    found = []
    for index, entry in enumerate(entries):
        begun = start + entry.t
        if entry.api_time is not None:
            ended = begun + entry.api_time
        else:
            ended = begun + pace * entry.out
            if index + 1 < len(entries):
                ended = min(ended, max(begun, start + entries[index + 1].t))
        found.append(Placed(entry, lane, begun, ended))
    return found


def _link(requests: list[Placed], returned: list[float]) -> None:
    """Fill in what each waits for, and for how long after."""
    last: dict[int, int] = {}
    joined: set[int] = set()
    for index, one in enumerate(requests):
        if one.lane in last:
            needs = [last[one.lane]]
        elif one.lane == 0:
            needs = []
        else:
            ended = [i for i in range(index) if requests[i].ended <= one.begun + ROUNDING]
            needs = [max(ended, key=lambda i: requests[i].ended)] if ended else [index - 1] if index else []
        if one.lane == 0:
            for lane in [lane for lane in last if lane and lane not in joined]:
                if returned[lane - 1] <= one.begun + ROUNDING:
                    joined.add(lane)
                    needs.append(last[lane])
        one.needs = tuple(needs)
        if needs:
            one.think = max(0.0, one.begun - max(requests[need].ended for need in needs))
        last[one.lane] = index
