"""The closed form against the step-by-step engine: the same, sooner."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.closed import ClosedForm
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.reference import Reference
from kvroute.simulator.engine.sequence import EngineRequest, Phase
from kvroute.simulator.engine.step import Cleared, Stored
from kvroute.simulator.engine.steptime import step_seconds
from tests.simulator.engine.scripts import STEP, Act, Features, play, scripts

FEATURES = {
    "plain": Features(),
    "coarse keys": Features(coarse=True),
    "priorities": Features(priorities=True),
    "adapters": Features(adapters=True),
    "offload": Features(offload=True, coarse=True),
    "remote": Features(remote=True, keeping=True),
    "all": Features(*[True] * 6),
}


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_it_is_the_reference(features: Features) -> None:
    """Same milestones in the same order, same tokens, hits, preemptions, totals, gaps, and changes of the cache."""

    @hypothesis_settings(max_examples=60, deadline=None)
    @given(scripts(features), st.booleans(), st.booleans())
    def hold(script: tuple[Limits, list[Act]], look: bool, watch: bool) -> None:
        limits, acts = script
        reference, closed = Reference(limits, STEP, watch), ClosedForm(limits, STEP, watch)
        expected, got = play(reference, acts, look=look), play(closed, acts, look=look)
        assert [one[1:] for one in got.milestones] == [one[1:] for one in expected.milestones]
        assert [one[0] for one in got.milestones] == pytest.approx([one[0] for one in expected.milestones], rel=1e-6)
        assert got.loads == expected.loads
        for one, other in zip(got.sequences, expected.sequences, strict=True):
            assert one[:5] == other[:5]
            assert one[5:] == pytest.approx(other[5:], rel=1e-6)
        assert [one[1] for one in got.changes] == [one[1] for one in expected.changes]
        assert [one[0] for one in got.changes] == pytest.approx([one[0] for one in expected.changes], rel=1e-6)
        assert closed.totals == reference.totals
        assert closed.kv_usage == reference.kv_usage == 0.0
        assert closed.running == closed.waiting == 0
        if not features.priorities:
            assert closed.gaps.counts == reference.gaps.counts

    hold()


@hypothesis_settings(max_examples=100, deadline=None)
@given(scripts(Features(*[True] * 6)))
def test_limits_hold_and_nothing_is_lost(script: tuple[Limits, list[Act]]) -> None:
    """At every event: the clock is monotone, slots and blocks suffice; in the end every block is blank or cached."""
    limits, acts = script
    engine = ClosedForm(limits, STEP)
    batch = engine._batch
    cache = batch.cache
    sequences = []
    now = 0.0
    for act in [*acts, Act(acts[-1].time + 100.0, "release", None, 10**6)]:
        while (due := engine.next_event_time()) <= act.time:
            assert due >= now
            now = due
            for milestone in engine.advance(due):
                assert milestone.time == due
            assert len(batch.running) <= limits.max_num_seqs
            assert sum(count for _, count, _ in batch.prefill) + batch.decodes.count <= limits.max_num_batched_tokens
            assert cache.blank >= 0
            assert 0 <= cache.pinned_blocks <= cache.capacity
            assert cache.idle_keys == sum(len(run.keys) for run in cache._idle)
        now = act.time
        engine.advance(now)
        if act.request is not None:
            sequences.append(engine.add(act.request, now))
        elif act.kind == "abort":
            engine.abort(sequences[act.number], now)
    for _ in range(len(sequences)):
        for sequence in sequences:
            engine.release(sequence, now)
        now += 100.0
        engine.advance(now)
    assert all(one.phase in (Phase.FINISHED, Phase.ABORTED) for one in sequences)
    assert cache.blank + cache.idle_keys * cache.blocks_per_key == cache.capacity
    assert engine.totals.generated_tokens == sum(one.generated for one in sequences)


def _drain(engine: ClosedForm) -> int:
    calls = 0
    while (due := engine.next_event_time()) < math.inf:
        engine.advance(due)
        calls += 1
    return calls


def test_a_long_answer_is_one_event() -> None:
    """What nothing disturbs is not computed step by step."""
    engine = ClosedForm(Limits(), StepTime())
    engine.add(EngineRequest("a", 100, 10_000), 0.0)
    assert _drain(engine) == 3
    assert engine.totals.steps == 10_000


def test_the_sum_of_many_steps_is_the_sum() -> None:
    """The end of a span is that of its steps one by one, to the last digits."""
    model = StepTime()
    engine = ClosedForm(Limits(), model)
    sequence = engine.add(EngineRequest("a", 1000, 5000), 0.0)
    _drain(engine)
    end = step_seconds(model, 1, 0, 1000, 1000 * 500.0)
    for step in range(4999):
        end += step_seconds(model, 1, 1000 + step, 0, 0.0)
    assert sequence.ended == pytest.approx(end, rel=1e-12)


def test_an_arrival_waits_for_the_step_under_way_only() -> None:
    """A span is cut at the end of the step in which somebody arrives; exactly at an end, the next step has begun."""
    end = 32 * STEP.c0 + 2.0**-40
    for now, start in ((end, end + STEP.c0), (end + STEP.c0 / 2, end + STEP.c0)):
        engine = ClosedForm(Limits(), StepTime(c0=STEP.c0, c1=0, c2=0, c3=2.0**-40, c4=0))
        engine.add(EngineRequest("long", 1, 1000), 0.0)
        engine.advance(now)
        sequence = engine.add(EngineRequest("late", 10, 1), now)
        _drain(engine)
        assert sequence.scheduled == pytest.approx(start, abs=1e-9)


def test_reading_totals_changes_nothing() -> None:
    """Counters in the middle of a span are those of the steps that have ended."""
    engine = ClosedForm(Limits(), StepTime(c0=0.25, c1=0, c2=0, c3=2.0**-40, c4=0))
    engine.add(EngineRequest("a", 1, 100), 0.0)
    engine.advance(10.1)
    assert engine.totals.generated_tokens == 40
    assert engine.totals.steps == 40


def test_deterministic_service_waits_as_queueing_theory_says() -> None:
    """M/D/1: one slot, Poisson arrivals; the mean wait is rho / (2 (1 - rho)) of the service time."""
    rng = np.random.default_rng(7)
    model = StepTime(c0=0.5, c1=0.0, c2=0.0, c3=0.005, c4=0.0)
    service = 1.0
    for rho, requests in ((0.3, 20_000), (0.8, 60_000)):
        engine = ClosedForm(Limits(max_num_seqs=1), model)
        sequences = []
        for now in np.cumsum(rng.exponential(service / rho, requests)).tolist():
            engine.advance(now)
            sequences.append(engine.add(EngineRequest("", 100, 1), now))
        _drain(engine)
        waits = np.array([one.scheduled - one.arrived for one in sequences])
        batches = waits.reshape(20, -1).mean(axis=1)
        error = float(batches.std(ddof=1)) / math.sqrt(len(batches))
        assert abs(math.fsum(waits) / requests - rho / (2 * (1 - rho)) * service) < 3 * error
        assert error < 0.1 * rho / (2 * (1 - rho))


def test_an_infinitely_fast_engine_has_no_queue() -> None:
    """Steps of no length: everything is over when it arrives."""
    engine = ClosedForm(Limits(), StepTime(c0=1e-12, c1=0, c2=0, c3=1e-15, c4=0))
    sequences = []
    for number in range(200):
        engine.advance(number * 1e-3)
        sequences.append(engine.add(EngineRequest("", 500, 100), number * 1e-3))
    _drain(engine)
    assert all(one.scheduled == one.arrived and one.ended - one.arrived < 1e-6 for one in sequences)


def test_more_important_requests_run_first() -> None:
    """With priorities the smaller value is admitted first, and the largest is preempted first."""
    engine = ClosedForm(Limits(max_num_seqs=1, policy="priority"), STEP)
    sequences = [engine.add(EngineRequest(str(value), 8, 3, priority=value), 0.0) for value in (1, 2, 0)]
    _drain(engine)
    assert [one.request.id for one in sorted(sequences, key=lambda one: one.scheduled)] == ["0", "1", "2"]
    tight = ClosedForm(Limits(blocks=11, block_size=4, policy="priority"), STEP)
    lesser = tight.add(EngineRequest("lesser", 16, 20, priority=1), 0.0)
    greater = tight.add(EngineRequest("greater", 16, 20), 0.0)
    _drain(tight)
    assert (lesser.preemptions, greater.preemptions) == (1, 0)


def test_an_adapter_too_many_is_passed_over() -> None:
    """Of two adapters one fits: who needs the other waits, those behind do not; loading takes its time once."""
    engine = ClosedForm(Limits(max_loras=1, adapter_seconds=0.5), STEP)
    first, second, third = (
        engine.add(EngineRequest(name, 8, 3, adapter=adapter), 0.0)
        for name, adapter in (("first", "a"), ("second", "b"), ("third", "a"))
    )
    _drain(engine)
    assert first.scheduled == third.scheduled == 0.0
    assert second.scheduled == first.ended
    assert first.first_output == pytest.approx(0.5 + STEP.c0 + 2 * STEP.c1 + 16 * STEP.c3 + 64 * STEP.c4)


def test_evicted_content_comes_back_from_the_host() -> None:
    """What was evicted is not computed again, but brought back, while others run."""
    limits = Limits(blocks=26, block_size=4, cpu_blocks=100, cpu_seconds_per_block=0.125)
    engine = ClosedForm(limits, STEP)
    keys = tuple(range(20))
    engine.add(EngineRequest("a", 81, 1, keys), 0.0)
    _drain(engine)
    engine.add(EngineRequest("b", 81, 1, tuple(range(100, 120))), 1.0)
    _drain(engine)
    back = engine.add(EngineRequest("c", 81, 1, keys), 2.0)
    other = engine.add(EngineRequest("d", 8, 1), 2.0)
    _drain(engine)
    assert other.scheduled == 2.0
    assert back.cached_tokens == 80
    loaded = (80 - engine.totals.hit_tokens) // 4
    assert 0 < loaded <= 20
    assert back.scheduled == pytest.approx(2.0 + 0.125 * loaded)


def test_a_prompt_from_another_replica_computes_its_last_token() -> None:
    """Remote KV: room from the admission on, a step of one token once all has arrived."""
    engine = ClosedForm(Limits(blocks=100, block_size=4), STEP)
    sequence = engine.add(EngineRequest("a", 80, 1, tuple(range(20)), remote_tokens=80, ready_at=3.0), 1.0)
    engine.advance(1.0)
    assert engine.kv_usage == pytest.approx(20 / 99)
    assert (engine.running, engine.waiting, engine.next_event_time()) == (0, 1, 3.0)
    _drain(engine)
    assert (sequence.scheduled, sequence.cached_tokens) == (3.0, 79)
    assert sequence.ended == pytest.approx(3.0 + STEP.c0 + STEP.c1 + STEP.c3 + 79.5 * STEP.c4)


def test_what_is_kept_is_held_until_its_release() -> None:
    """A prefill for another replica: its blocks are pinned beyond its end, and cached after that."""
    engine = ClosedForm(Limits(blocks=22, block_size=4), STEP)
    first = engine.add(EngineRequest("a", 80, 1, tuple(range(20)), keep=True), 0.0)
    _drain(engine)
    blocked = engine.add(EngineRequest("b", 80, 1), 1.0)
    assert engine.advance(5.0) == []
    assert engine.kv_usage == pytest.approx(20 / 21)
    engine.release(first, 5.0)
    engine.release(first, 5.0)
    _drain(engine)
    assert blocked.scheduled == 5.0
    assert engine.kv_usage == 0.0


def test_a_reset_is_announced_with_the_next_step() -> None:
    """A cache is forgotten while nobody runs; the change is told when a step ends."""
    engine = ClosedForm(Limits(block_size=4), STEP, watch=True)
    engine.add(EngineRequest("a", 9, 1, (1, 2)), 0.0)
    engine.advance(0.0)
    assert not engine.reset_cache()
    _drain(engine)
    assert engine.reset_cache()
    again = engine.add(EngineRequest("b", 9, 1, (1, 2)), 1.0)
    _drain(engine)
    assert again.cached_tokens == 0
    told = [type(change) for changed in engine.take_changes() for change in changed.changes]
    assert told == [Stored, Cleared, Stored]


def test_impossible_limits_are_refused() -> None:
    """Budgets that starve running sequences, and keys that are no whole number of blocks, are errors."""
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        ClosedForm(Limits(max_num_seqs=256, max_num_batched_tokens=100), STEP)
    with pytest.raises(ValueError, match="key_tokens"):
        ClosedForm(Limits(block_size=16, key_tokens=24), STEP)


def test_what_can_never_run_is_refused() -> None:
    """Empty requests, and those larger than the cache, are errors of the caller."""
    engine = ClosedForm(Limits(blocks=3, block_size=4), STEP)
    for request in (EngineRequest("a", 0, 1), EngineRequest("b", 1, 0), EngineRequest("c", 8, 1)):
        with pytest.raises(ValueError, match=request.id):
            engine.add(request, 0.0)
