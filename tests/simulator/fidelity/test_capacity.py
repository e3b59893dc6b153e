"""A capacity that a run does not tell is found from what it shows, or taken as ample and said to be."""

from __future__ import annotations

import msgspec
import pytest

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.fidelity.capacity import capacity
from kvroute.simulator.fidelity.fit import times
from kvroute.simulator.fidelity.measures import compare
from kvroute.simulator.fidelity.recording import Recording, Tick
from kvroute.simulator.fidelity.rehearsal import Rehearsal
from tests.simulator.fidelity.recorded import LIMITS, TRUTH, played, timed

TIGHT = Limits(blocks=400, max_num_seqs=32, max_num_batched_tokens=1024)


def untold(*, shown: bool) -> Recording:
    """A run that lacked room, with a tick a second."""
    asked = [EngineRequest(f"r-{i}", 300 + 7 * i, 500 + 11 * i) for i in range(40)]
    rehearsal = Rehearsal(asked, [0.1 * i for i in range(40)], TIGHT)
    run = rehearsal.play(TRUTH)
    stamps = timed(rehearsal, run)
    ticks = []
    for second in range(1, int(max(run.last))):
        here = next((one for one in run.stretches if one.start <= second < one.end), None)
        held = 0.0
        if here is not None and shown:
            steps = here.work[0]
            held = min(1.0, here.work[2] / steps / (399 * 16))
        prefilled = sum(one.work[3] for one in run.stretches if second - 1 <= one.end < second)
        running, waiting = (here.running, here.waiting) if here else (0, 0)
        ticks.append(Tick(float(second), float(prefilled), float(running), float(waiting), held))
    limits = msgspec.structs.replace(TIGHT, blocks=0)
    return Recording("r", "G", "m", 1, limits, False, True, stamps, list(rehearsal.requests), ticks, {}, [])


def test_told_is_told() -> None:
    """num_gpu_blocks is taken as it is."""
    run = msgspec.structs.replace(untold(shown=True), blocks_told=True, limits=TIGHT)
    assert capacity(run).limits == TIGHT


def test_the_engines_own_share_tells() -> None:
    """Tokens running over share in use is the whole, within 10 %."""
    found = capacity(untold(shown=True))
    assert "kv_cache_pct" in found.source
    assert found.limits.blocks == pytest.approx(400, rel=0.1)


@pytest.mark.parametrize("scheduled", [True, False])
def test_waiting_for_room_tells(scheduled: bool) -> None:
    """Without ticks, the tokens that ran when a wait for room ended are the whole; nearer where scheduling is told."""
    run = untold(shown=False)
    stamps = [one if scheduled else msgspec.structs.replace(one, scheduled=None) for one in run.requests]
    found = capacity(msgspec.structs.replace(run, ticks=[], requests=stamps))
    assert "when a wait for room ended" in found.source
    assert found.limits.blocks == pytest.approx(400, rel=0.05 if scheduled else 0.15)


def test_a_full_cache_is_rehearsed_as_one() -> None:
    """A run of many preemptions, played with the capacity found, keeps its mean times."""
    run = untold(shown=False)
    limits = capacity(msgspec.structs.replace(run, ticks=[])).limits
    again = Rehearsal(run.asked, [one.arrival for one in run.requests], limits).play(TRUTH)
    scores = compare(run.requests, times(again), range(len(run.requests)))
    assert again.preemptions > 0
    assert all(abs(scores[name].error) < 0.1 for name in ("ttft_mean", "e2e_mean", "throughput_requests"))


def test_otherwise_it_is_ample() -> None:
    """Waiting for a slot or for the step's budget is no waiting for room: it holds everything, said to be assumed."""
    slots = msgspec.structs.replace(LIMITS, max_num_seqs=8, blocks=10**5)
    for limits, rate in ((slots, 6.0), (LIMITS, 2.0), (msgspec.structs.replace(LIMITS, blocks=10**5), 60.0)):
        rehearsal, made = played(limits=limits, rate=rate, count=60)
        stamps = timed(rehearsal, made)
        told = msgspec.structs.replace(limits, blocks=0)
        for seen in (stamps, [msgspec.structs.replace(one, scheduled=None, queued=None) for one in stamps]):
            run = Recording("r", "G", "m", 1, told, False, True, seen, list(rehearsal.requests), [], {}, [])
            found = capacity(run)
            assert "ample" in found.source
            assert found.limits.blocks * 16 >= sum(one.prompt_tokens + one.output_tokens for one in stamps)
