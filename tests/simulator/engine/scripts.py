"""Random scripts for an engine, and what it makes of them."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from hypothesis import strategies as st

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.contract import Milestone, Replica
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest, Phase, Sequence
from kvroute.simulator.engine.step import Removed, Stored

STEP = StepTime(c0=1 / 64, c1=2**-12, c2=2**-16, c3=2**-12, c4=2**-24, c5=2**-17)
"""Powers of two: sums are exact, so that two ways to add them up agree on what comes first."""

_WAITS = st.sampled_from([0.0, 0.0, 1 / 128, 1 / 64, 5 / 256, 0.1, 0.3])


class Act(NamedTuple):
    """What is done to an engine at a moment."""

    time: float
    kind: Literal["add", "abort", "release"]
    request: EngineRequest | None
    number: int
    """Of the request that is meant."""


class Features(NamedTuple):
    """What scripts may make use of."""

    coarse: bool = False
    priorities: bool = False
    adapters: bool = False
    offload: bool = False
    remote: bool = False
    keeping: bool = False


def keys(content: int, fork: tuple[int, int], count: int) -> tuple[int, ...]:
    """Chained keys: contents differ from the start, forks of one content from a depth on."""
    depth, branch = fork
    return tuple(
        content * 1000 + place if place < depth or not branch else ((depth * 4 + branch) * 8 + content) * 1000 + place
        for place in range(count)
    )


@st.composite
def scripts(draw: st.DrawFn, features: Features) -> tuple[Limits, list[Act]]:
    """Limits that are tight, and requests that share beginnings, come at awkward times, and are dropped."""
    size = draw(st.sampled_from([1, 2, 4]))
    each = draw(st.integers(1, 3)) if features.coarse else 1
    limits = Limits(
        blocks=draw(st.integers(64 // size, 320 // size)),
        block_size=size,
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(8, 64)),
        key_tokens=size * each,
        reserve_prompt=draw(st.booleans()),
        policy="priority" if features.priorities else "fcfs",
        max_loras=draw(st.integers(1, 3)) if features.adapters else 0,
        adapter_seconds=1 / 32 if features.adapters else 0.0,
        cpu_blocks=draw(st.integers(each, 80)) if features.offload else 0,
        cpu_seconds_per_block=draw(st.sampled_from([0.0, 1 / 256, 1 / 32])),
    )
    acts: list[Act] = []
    now = 0.0
    for index in range(draw(st.integers(1, 20))):
        now += draw(_WAITS)
        request = draw(_requests(features, str(index), size * each, now))
        acts.append(Act(now, "add", request, index))
        if draw(st.integers(0, 7)) == 7:
            acts.append(Act(now + draw(_WAITS), "abort", None, draw(st.integers(0, index))))
        if request.keep:
            acts.append(Act(now + draw(_WAITS), "release", None, index))
    acts.sort(key=lambda act: act.time)
    return limits, acts


@st.composite
def _requests(draw: st.DrawFn, features: Features, name: str, key: int, now: float) -> EngineRequest:
    prompt = draw(st.one_of(st.integers(1, 30), st.integers(1, 28 // key).map(lambda full: full * key)))
    output = draw(st.integers(1, 25))
    full = draw(st.sampled_from([(prompt + output) // key, (prompt + output) // key, prompt // key, 0]))
    fork = draw(st.tuples(st.integers(0, 6), st.integers(0, 2)))
    remote = features.remote and draw(st.booleans())
    alone = draw(st.booleans())
    known = keys(draw(st.integers(0, 2)), fork, full)
    if alone:
        known = (
            *known[: prompt // key],
            *range(10**9 + int(name) * 1000 + prompt // key, 10**9 + int(name) * 1000 + full),
        )
    return EngineRequest(
        name,
        prompt,
        output,
        known,
        priority=draw(st.integers(0, 2)) if features.priorities else 0,
        adapter=draw(st.sampled_from([None, "a", "b", "c", "d"])) if features.adapters else None,
        remote_tokens=draw(st.integers(0, prompt)) if remote else 0,
        ready_at=now + draw(_WAITS) if remote else 0.0,
        keep=features.keeping and draw(st.booleans()),
        report_full=draw(st.booleans()),
        alone=alone,
    )


class Played(NamedTuple):
    """What came of a script."""

    milestones: list[tuple[float, str, bool]]
    loads: list[tuple[int, int, float]]
    """(running, waiting, KV usage) before each act."""
    sequences: list[tuple[Any, ...]]
    changes: list[tuple[float, list[Any]]]


def play(engine: Replica, acts: list[Act], *, look: bool) -> Played:
    """Run a script to its end; `look` at the engine's load before each act."""
    sequences: dict[int, Sequence] = {}
    milestones: list[Milestone] = []
    loads: list[tuple[int, int, float]] = []
    for act in acts:
        milestones += engine.advance(act.time)
        loads.append((engine.running, engine.waiting, engine.kv_usage if look else 0.0))
        if act.request is not None:
            sequences[act.number] = engine.add(act.request, act.time)
        elif act.number in sequences:
            (engine.abort if act.kind == "abort" else engine.release)(sequences[act.number], act.time)
    now = acts[-1].time
    while engine.next_event_time() < math.inf or any(one.phase is Phase.WAITING for one in sequences.values()):
        now += 1.0  # kept blocks may be what others wait for
        milestones += engine.advance(now)
        for one in sequences.values():
            engine.release(one, now)
    for one in sequences.values():
        engine.release(one, now)
    milestones += engine.advance(now)
    return Played(
        [(one.time, one.sequence.request.id, one.finished) for one in milestones],
        loads,
        [_summary(one) for _, one in sorted(sequences.items())],
        [(changed.time, [_told(change) for change in changed.changes]) for changed in engine.take_changes()],
    )


def _summary(one: Sequence) -> tuple[Any, ...]:
    times = (one.arrived, one.scheduled, one.first_output, one.ended)
    return one.request.id, one.phase.value, one.cached_tokens, one.generated, one.preemptions, *times


def _told(change: object) -> Any:
    if isinstance(change, Stored):
        return change.sequence.request.id, change.first, change.count
    assert isinstance(change, Removed)
    return change.key
