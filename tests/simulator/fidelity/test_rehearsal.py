"""A rehearsal runs as the reference engine does, and takes the clock from what was recorded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.engine.stepwise import Engine
from kvroute.simulator.fidelity.rehearsal import FIRST, LAST, Rehearsal, seconds
from tests.simulator.fidelity.recorded import LIMITS, TRUTH, played, requests


def reference(asked: list[EngineRequest], arrivals: list[float], limits: Limits) -> tuple[list[float], list[float]]:
    """(first, last) token times of the step-by-step engine."""
    engine = Engine(limits, StepTime(*TRUTH))
    first, last = [math.nan] * len(asked), [math.nan] * len(asked)
    place = {request.id: i for i, request in enumerate(asked)}
    waiting = list(zip(arrivals, asked, strict=True))
    while waiting or engine.next_event_time() < math.inf:
        now = min(waiting[0][0] if waiting else math.inf, engine.next_event_time())
        for step in engine.advance(now):
            for output in step.outputs:
                i = place[output.sequence.request.id]
                if output.first == 0:
                    first[i] = step.end
                if output.finished:
                    last[i] = step.end
        while waiting and waiting[0][0] <= now:
            engine.add(waiting.pop(0)[1], now)
    return first, last


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([130, 400, 4000]), st.floats(0.5, 40.0), st.booleans())
def test_one_step_at_a_time_is_the_reference_engine(seed: int, blocks: int, rate: float, reserve: bool) -> None:
    """With depth 1 every first and last token falls where the step-by-step engine has it, preemptions included."""
    limits = Limits(blocks=blocks, max_num_seqs=8, max_num_batched_tokens=512, reserve_prompt=reserve)
    asked, arrivals = requests(25, seed=seed, rate=rate)
    run = Rehearsal(asked, arrivals, limits, depth=1).play(TRUTH)
    first, last = reference(asked, arrivals, limits)
    assert run.first == pytest.approx(first, abs=1e-9)
    assert run.last == pytest.approx(last, abs=1e-9)


def test_shared_prefixes_are_hit_as_in_the_reference_engine() -> None:
    """Prompts that begin alike skip the same blocks."""
    keys = tuple(range(100, 130))
    asked = [EngineRequest(str(i), 480 + i, 30, keys) for i in range(6)]
    arrivals = [0.3 * i for i in range(6)]
    run = Rehearsal(asked, arrivals, LIMITS, depth=1).play(TRUTH)
    first, last = reference(asked, arrivals, LIMITS)
    assert run.first == pytest.approx(first)
    assert run.last == pytest.approx(last)
    assert run.hit_tokens == 5 * 480


def test_known_hits_replace_the_cache() -> None:
    """Tokens that are known to have been cached are not computed."""
    asked, arrivals = [EngineRequest("a", 500, 1)], [0.0]
    run = Rehearsal(asked, arrivals, LIMITS, cached=[400]).play((0.0, 0.0, 0.0, 1.0, 0.0, 0.0))
    assert run.first == [100.0]


def test_ahead_a_request_waits_for_the_step_under_way_and_the_next() -> None:
    """Who arrives during a step is computed in the next but one."""
    asked = [EngineRequest("a", 10, 50), EngineRequest("b", 10, 5)]
    step = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    run = Rehearsal(asked, [0.0, 10.5], LIMITS, depth=2).play(step)
    assert (run.scheduled[1], run.first[1]) == (11.0, 13.0)
    run = Rehearsal(asked, [0.0, 10.5], LIMITS, depth=1).play(step)
    assert (run.scheduled[1], run.first[1]) == (11.0, 12.0)


def test_ahead_a_slot_stays_empty_for_a_step() -> None:
    """Who takes the place of one that ended in step k runs in step k + 2."""
    asked = [EngineRequest("a", 10, 3), EngineRequest("b", 10, 1)]
    limits = Limits(blocks=100, max_num_seqs=1)
    run = Rehearsal(asked, [0.0, 0.0], limits, depth=2).play((1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    assert (run.last[0], run.first[1]) == (3.0, 4.0)


def test_the_clock_is_set_to_what_was_recorded() -> None:
    """With all its tokens recorded, a rehearsal gives them back whatever the step time."""
    rehearsal, run = played()
    told = {(i, FIRST): t for i, t in enumerate(run.first)} | {(i, LAST): t for i, t in enumerate(run.last)}
    again = rehearsal.play(TRUTH, told)
    assert again.first == pytest.approx(run.first)
    assert again.last == pytest.approx(run.last)
    assert sum(one.observed for one in again.stretches) > len(run.first)


@pytest.mark.parametrize("depth", [1, 2])
def test_work_adds_up(depth: int) -> None:
    """Every prompt token is computed once, every output token but the last of each is decoded; time is work."""
    rehearsal, run = played(depth=depth)
    total = [sum(one.work[k] for one in run.stretches) for k in range(6)]
    prompts = sum(request.prompt_tokens for request in rehearsal.requests)
    assert total[3] == prompts
    assert all(one.end - one.start == pytest.approx(seconds(TRUTH, one.work)) for one in run.stretches)
    assert all(one.running <= LIMITS.max_num_seqs for one in run.stretches)
