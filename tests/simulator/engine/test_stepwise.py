"""The scheduler of one replica."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest, Phase, Sequence
from kvroute.simulator.engine.step import Cleared, Removed, Step, Stored
from kvroute.simulator.engine.steptime import from_rates, step_seconds
from kvroute.simulator.engine.stepwise import Engine

RATES = from_rates(prefill_rate=1000.0, decode_rate=10.0)
"""A step takes 0.1 s, and 1 ms for each prompt token."""


def _engine(**limits: int) -> Engine:
    return Engine(msgspec.convert({"blocks": 1000, "block_size": 4} | limits, Limits), RATES)


def _request(name: str, prompt: int, output: int = 1, content: int | None = None) -> EngineRequest:
    """A request whose blocks are its own, or those of the content it shares."""
    blocks = (prompt + output) // 4
    return EngineRequest(
        name, prompt, output, tuple(hash((name if content is None else content, i)) for i in range(blocks))
    )


def _drain(engine: Engine) -> list[Step]:
    steps: list[Step] = []
    while (due := engine.next_event_time()) < math.inf:
        steps += engine.advance(due)
    return steps


def test_the_formula_of_a_step() -> None:
    """Each coefficient weighs its own quantity."""
    model = StepTime(c0=1.0, c1=10.0, c2=100.0, c3=1000.0, c4=10000.0, c5=100000.0)
    assert step_seconds(model, 2, 3, 4, 5) == 1 + 20 + 300 + 4000 + 50000 + 300000


def test_decodes_alone_do_not_pay_for_prefills() -> None:
    """c5 is of steps that also prefill."""
    assert step_seconds(StepTime(c0=1.0, c1=10.0, c2=100.0, c5=100000.0), 2, 3, 0, 0.0) == 1 + 20 + 300


def test_prefill_then_one_token_a_step() -> None:
    """The first output comes at the end of the prefill step, every further one a step later."""
    engine = _engine()
    sequence = engine.add(_request("a", 100, 3), 5.0)
    steps = _drain(engine)
    assert [round(step.end, 6) for step in steps] == [5.2, 5.3, 5.4]
    assert [output.first for step in steps for output in step.outputs] == [0, 1, 2]
    assert (sequence.phase, sequence.generated) == (Phase.FINISHED, 3)
    assert (round(sequence.first_output, 6), round(sequence.ended, 6)) == (5.2, 5.4)


def test_nothing_happens_before_its_time() -> None:
    """A step is not complete before its end, and an idle engine wants nothing."""
    engine = _engine()
    assert engine.next_event_time() == math.inf
    engine.add(_request("a", 100), 0.0)
    assert engine.next_event_time() == 0.0
    assert engine.advance(0.199) == []
    assert engine.next_event_time() == pytest.approx(0.2)
    assert len(engine.advance(0.2)) == 1


def test_a_late_caller_gets_every_step_at_its_own_time() -> None:
    """Advancing over many steps at once returns them all, as if each had been called for."""
    engine = _engine()
    engine.add(_request("a", 100, 5), 0.0)
    assert [round(step.end, 6) for step in engine.advance(100.0)] == [0.2, 0.3, 0.4, 0.5, 0.6]


def test_long_prompts_are_prefilled_in_chunks_beside_decodes() -> None:
    """Decodes come first in each step, and the prompt gets what is left of the token budget."""
    engine = _engine(max_num_batched_tokens=64)
    engine.add(_request("decoding", 4, 50), 0.0)
    engine.advance(0.15)
    engine.add(_request("long", 150), 0.15)
    steps = engine.advance(10.0)
    assert [step.tokens for step in steps[1:4]] == [64, 64, 25]
    assert [len(step.outputs) for step in steps[1:4]] == [1, 1, 2]


def test_slots_are_limited_and_given_in_order_of_arrival() -> None:
    """Never more than max_num_seqs run; who came first is scheduled first."""
    engine = _engine(max_num_seqs=2)
    sequences = [engine.add(_request(str(number), 8, 3), 0.0) for number in range(5)]
    engine.advance(0.0)
    assert (len(engine.running), len(engine.waiting)) == (2, 3)
    _drain(engine)
    assert [one.scheduled for one in sequences] == sorted(one.scheduled for one in sequences)
    assert sequences[2].scheduled == sequences[0].ended


def test_a_shared_prefix_is_computed_once() -> None:
    """A request behind an equal one, in the very same step, computes only what the first did not."""
    engine = _engine()
    first = engine.add(_request("a", 41, content=1), 0.0)
    second = engine.add(_request("b", 41, content=1), 0.0)
    (step,) = engine.advance(1.0)
    assert (first.cached_tokens, second.cached_tokens) == (0, 40)
    assert step.tokens == 42
    assert [type(change) for change in step.changes] == [Stored]


def test_a_full_hit_still_computes_its_last_block() -> None:
    """A prompt of whole blocks that is cached entirely recomputes its last block, and stores it once more."""
    engine = _engine()
    engine.add(_request("a", 40, content=1), 0.0)
    engine.advance(1.0)
    again = engine.add(_request("b", 40, content=1), 1.0)
    (step,) = engine.advance(2.0)
    assert again.cached_tokens == 36
    assert step.changes == [Stored(again, 9, 1)]


def test_generated_tokens_enter_the_cache() -> None:
    """The next turn of a chat hits the blocks that its last answer filled; the very last token is not among them."""
    engine = _engine()
    engine.add(_request("turn 1", 10, 7, content=1), 0.0)
    _drain(engine)
    following = engine.add(_request("turn 2", 30, 1, content=1), 9.0)
    engine.advance(9.5)
    assert following.cached_tokens == 16


def test_blocks_are_told_when_their_chunk_is_done() -> None:
    """Each chunk announces its own full blocks at its end, under the block before them."""
    engine = _engine(max_num_batched_tokens=8)
    sequence = engine.add(_request("a", 21), 0.0)
    changes = [change for step in engine.advance(10.0) for change in step.changes]
    assert changes == [Stored(sequence, 0, 2), Stored(sequence, 2, 2), Stored(sequence, 4, 1)]


def test_a_full_report_tells_hits_too() -> None:
    """With `report_full` blocks that were hit are announced again."""
    engine = _engine()
    engine.add(_request("a", 9, content=1), 0.0)
    engine.advance(1.0)
    loud = engine.add(EngineRequest("b", 9, 1, _request("a", 9, content=1).keys, report_full=True), 1.0)
    (step,) = engine.advance(2.0)
    assert step.changes == [Stored(loud, 0, 2)]


def test_a_full_cache_preempts_the_last_comer_who_starts_again() -> None:
    """Out of blocks, the youngest loses its blocks, waits at the head, recomputes, and still gives every token."""
    engine = _engine(blocks=11)
    first, second = (engine.add(_request(name, 16, 20), 0.0) for name in "ab")
    steps = _drain(engine)
    assert engine.totals.preemptions == 1
    assert (first.preemptions, second.preemptions) == (0, 1)
    assert (first.generated, second.generated) == (20, 20)
    outputs = [output.first for step in steps for output in step.outputs if output.sequence is second]
    assert outputs == list(range(20))
    assert second.cached_tokens == 0


def test_an_abort_frees_slot_and_blocks_at_once() -> None:
    """Waiting, running or finished: an aborted sequence holds nothing, and gives no further output."""
    engine = _engine(max_num_seqs=1)
    running, waiting = (engine.add(_request(name, 40, 5), 0.0) for name in "ab")
    engine.advance(0.01)
    engine.abort(waiting, 0.01)
    assert engine.kv_usage > 0
    engine.abort(running, 0.02)
    engine.abort(running, 0.02)
    assert (engine.running, list(engine.waiting), engine.kv_usage) == ([], [], 0)
    assert [step.outputs for step in _drain(engine)] == [[]]


def test_a_reset_is_announced_with_the_next_step() -> None:
    """Forgetting the cache changes nothing on the wire until a step ends."""
    engine = _engine()
    engine.add(_request("a", 9, content=1), 0.0)
    engine.advance(1.0)
    assert engine.reset_cache()
    assert engine.advance(2.0) == []
    engine.add(_request("b", 9, content=1), 2.0)
    assert not engine.advance(2.0)
    assert not engine.reset_cache()
    (step,) = engine.advance(3.0)
    assert [type(change) for change in step.changes] == [Cleared, Stored]


def test_paused_it_finishes_its_step_and_starts_no_other() -> None:
    """A paused engine wants no call until it is resumed."""
    engine = _engine()
    engine.add(_request("a", 10, 3), 0.0)
    engine.advance(0.0)
    engine.pause()
    assert len(engine.advance(9.0)) == 1
    assert engine.next_event_time() == math.inf
    engine.resume(10.0)
    assert [round(step.end, 6) for step in engine.advance(20.0)] == [10.1, 10.2]


def test_what_can_never_run_is_refused() -> None:
    """Empty requests, and those larger than the cache, are errors of the caller."""
    engine = _engine(blocks=3)
    for request in (_request("a", 0), _request("b", 1, 0), _request("c", 8, 1)):
        with pytest.raises(ValueError, match=request.id):
            engine.add(request, 0.0)
    engine.add(_request("fits", 7, 1), 0.0)
    assert len(_drain(engine)) == 1


_ARRIVALS = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 60), st.integers(1, 12), st.integers(0, 3), st.booleans()), max_size=15
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(_ARRIVALS, st.integers(20, 60), st.integers(1, 4), st.integers(8, 40))
def test_invariants(arrivals: list[tuple[float, int, int, int, bool]], blocks: int, slots: int, budget: int) -> None:
    """Limits hold at each step, the clock is monotone, every request ends once, and no block is lost."""
    engine = _engine(blocks=blocks, max_num_seqs=slots, max_num_batched_tokens=budget)
    steps: list[Step] = []
    sequences: list[Sequence] = []
    for now, prompt, output, content, leaves in sorted(arrivals):
        steps += engine.advance(now)
        sequence = engine.add(_request(str(len(sequences)), prompt, output, content), now)
        sequences.append(sequence)
        if leaves:
            engine.abort(sequences[len(sequences) // 2], now)
        assert len(engine.running) <= slots
    steps += _drain(engine)
    assert all(step.tokens <= budget and len(step.outputs) <= slots for step in steps)
    assert all(one.end <= other.start for one, other in itertools.pairwise(steps))
    assert engine.cache.pinned_blocks == 0
    stored = sum(change.count for step in steps for change in step.changes if isinstance(change, Stored))
    removed = sum(isinstance(change, Removed) for step in steps for change in step.changes)
    assert engine.cache.cached_blocks == stored - removed
    for sequence in sequences:
        ends = [out for step in steps for out in step.outputs if out.sequence is sequence and out.finished]
        assert len(ends) == (sequence.phase is Phase.FINISHED)
        assert sequence.arrived <= sequence.scheduled <= sequence.ended
        if sequence.phase is Phase.FINISHED:
            assert sequence.generated == sequence.request.output_tokens
