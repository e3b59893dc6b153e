"""Closed loops, counted without a clock, against the reference engine."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest, Sequence
from kvroute.simulator.engine.stepwise import Engine
from kvroute.simulator.latency.closedloop import Loop, means

STEP = StepTime(c0=5e-3, c1=1e-4, c2=2e-8, c3=3e-5, c4=2e-9)


def _simulated(loop: Loop) -> tuple[float, float]:
    """Mean TTFT and TPOT at the reference engine, which begins a step before it is told of the next request."""
    engine = Engine(Limits(blocks=100_000, max_num_seqs=loop.seats, max_num_batched_tokens=loop.budget), STEP)
    rng = np.random.default_rng(5)
    count = loop.concurrency * loop.rounds
    shortest = int(loop.prompt * loop.spread), int(loop.output * loop.spread)
    prompts = rng.integers(shortest[0], loop.prompt + 1, count)
    outputs = rng.integers(shortest[1], loop.output + 1, count)
    lengths = iter([(int(prompt), int(output)) for prompt, output in zip(prompts, outputs, strict=True)])
    sent: list[Sequence] = []

    def send(now: float) -> None:
        for prompt, output in lengths:
            sent.append(engine.add(EngineRequest(str(len(sent)), prompt, output), now))
            return

    for _ in range(loop.concurrency):
        send(0.0)
    while (due := engine.next_event_time()) < math.inf:
        for step in engine.advance(due):
            for output in step.outputs:
                if output.finished:
                    send(step.end)
    ttft = [one.first_output - one.arrived for one in sent]
    tpot = [(one.ended - one.first_output) / (one.request.output_tokens - 1) for one in sent]
    return math.fsum(ttft) / len(ttft), math.fsum(tpot) / len(tpot)


@pytest.mark.parametrize(
    "loop",
    [
        Loop(64, 8, 1, rounds=3),
        Loop(300, 20, 8, budget=256, spread=0.8, rounds=4),
        Loop(1000, 30, 12, budget=512, spread=0.5, rounds=5),
        Loop(700, 25, 12, budget=512, seats=5, spread=0.8, rounds=4),
        Loop(128, 40, 16, budget=2048, rounds=4),
    ],
)
def test_the_means_are_those_of_the_reference_engine(loop: Loop) -> None:
    """Counted work times coefficients is what the engine takes step by step."""
    assert means(loop, np.random.default_rng(5)).seconds(STEP) == pytest.approx(_simulated(loop), rel=1e-6)


def test_a_late_request_waits_for_a_step() -> None:
    """With two requests under way, the next one misses the step that has begun."""
    loop = Loop(10, 50, 2, budget=100, rounds=40, spread=0.5, late=0)
    late = Loop(10, 50, 2, budget=100, rounds=40, spread=0.5, late=1)
    ready, missed = (means(one, np.random.default_rng(5)).ttft[0] for one in (loop, late))
    assert ready == pytest.approx(1.0, abs=0.05)
    assert missed == pytest.approx(2.0, abs=0.15)


def test_one_request_by_hand() -> None:
    """Prompt 5 in chunks of 2, then 3 more tokens: every quantity of the formula."""
    counted = means(Loop(5, 4, 1, budget=2, rounds=1), np.random.default_rng(5))
    assert counted.ttft == (3, 3, 0, 5, 2 * (0 + 1) + 2 * (2 + 1) + 1 * (4 + 0.5))
    assert counted.tpot == (1, 1, (5 + 6 + 7) / 3, 0, 0)
