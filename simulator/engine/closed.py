"""One replica as a discrete-event model of vLLM's scheduler, in which decode steps between events are one sum.

The same as `stepwise`, at a cost that does not depend on the size of the batch, the length of answers or of prompts. A
span is one step, or as many steps of equal decodes as nothing can disturb: until a sequence ends, a new one could be
admitted, or the cache runs out of room. Step j of it lasts `first + j * slope`, since each decode reads one more token
a step.
"""

from __future__ import annotations

import math
from heapq import heappop

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.batch import PREEMPTED, UNDISTURBED, Batch
from kvroute.simulator.engine.contract import Changed, Milestone
from kvroute.simulator.engine.gaps import Gaps
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.runner import Runner
from kvroute.simulator.engine.sequence import EngineRequest, Phase, Sequence
from kvroute.simulator.engine.steptime import step_seconds
from kvroute.simulator.engine.totals import Totals

_new = tuple.__new__
"""Makes a `Milestone` without the call that `Milestone(...)` is: there are two of them a request."""


class ClosedForm:
    """One replica: a batch and its clock."""

    def __init__(self, limits: Limits, step: StepTime, watch: bool = False, gaps: Gaps | None = None) -> None:
        """`watch`: keep the changes of the cache for `take_changes`. `gaps`: where inter-token times are counted.

        Raises:
            ValueError: a limit makes no sense, or does not let every running sequence decode in each step.
        """
        if limits.max_num_batched_tokens < limits.max_num_seqs:
            raise ValueError("max_num_batched_tokens must not be less than max_num_seqs")
        self.limits = limits
        self.model = step
        self.gaps = Gaps() if gaps is None else gaps
        self._batch = Batch(limits, watch)
        self._decodes = self._batch.decodes
        self._most = self._batch.cache.capacity * limits.block_size
        self._start = -math.inf
        self._end = math.inf
        self._first = 0.0
        self._slope = 0.0
        self._count = 0
        """Steps of the span."""
        self._reserved = 0
        """Leading steps of the span whose blocks are taken."""
        self._ready = math.inf
        """When a step is to begin, while none is under way."""
        self._now = -math.inf
        self._changed: list[Changed] = []

    # -- what the caller does -----------------------------------------------------------------------------------

    def add(self, request: EngineRequest, now: float) -> Runner:
        """Queue a request.

        Raises:
            ValueError: it is empty, or could never fit into the cache.
        """
        prompt = request.prompt_tokens
        output = request.output_tokens
        if prompt < 1 or output < 1:
            raise ValueError(f"{request.id}: a request needs at least one prompt and one output token")
        if prompt + output > self._most:
            raise ValueError(f"{request.id}: {prompt} + {output} tokens never fit {self._most}")
        sequence = Runner(request, now)
        batch = self._batch
        if self._end == math.inf:
            if now < self._ready:
                self._ready = now
        elif self._count > 1 and not (batch.waiting and batch.steady):
            self._cut(now)
        batch.enter(sequence)
        if now > self._now:
            self._now = now
        return sequence

    def abort(self, sequence: Sequence, now: float) -> None:
        """Drop a sequence at once: its blocks are free, its slot is free. The step under way is not shortened."""
        assert isinstance(sequence, Runner)
        if sequence.phase in (Phase.FINISHED, Phase.ABORTED):
            return
        self._interrupt(now)
        if sequence.phase is Phase.WAITING:
            self._batch.withdraw(sequence)
        else:
            self._batch.stop(sequence, 1)
            self._batch.let_go(sequence)
        sequence.phase = Phase.ABORTED
        sequence.ended = now
        self._wake(now)

    def release(self, sequence: Sequence, now: float) -> None:
        """Let go of the blocks that a finished sequence was to keep. A second call changes nothing."""
        assert isinstance(sequence, Runner)
        if sequence.phase is Phase.FINISHED and sequence.held:
            self._interrupt(now)
            self._batch.let_go(sequence)
            self._wake(now)

    def reset_cache(self) -> bool:
        """Forget all cached blocks; False while requests run. Announced with the next step, as vLLM does."""
        return self._batch.reset_cache()

    def next_event_time(self) -> float:
        """When `advance` has something to do; inf when idle."""
        return self._end if self._end < self._ready else self._ready

    def advance(self, now: float) -> list[Milestone]:
        """Run until `now`: the milestones reached by then, in order of time, then of the running batch."""
        done: list[Milestone] = []
        while True:
            if self._end <= now:
                self._complete(done)
            elif self._ready <= now:
                self._begin(self._ready)
            else:
                break
        if now > self._now:
            self._now = now
        return done

    def take_changes(self) -> list[Changed]:
        """The cache's changes since the last call, in order; empty unless it was made to watch its cache."""
        changed, self._changed = self._changed, []
        return changed

    @property
    def totals(self) -> Totals:
        """Counters since start, as of the last call."""
        self._settle()
        return self._batch.totals

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._batch.running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._batch.waiting) + len(self._batch.coming)

    @property
    def kv_usage(self) -> float:
        """Share of the blocks that requests hold [0..1]."""
        return self.kv_usage_at(self._now)

    def kv_usage_at(self, now: float) -> float:
        """The same at a moment before anything is due; nothing is changed by asking."""
        pinned = self._batch.cache.pinned_blocks
        if self._end < math.inf:
            steps = self._steps_by(now) + 1
            if steps > self._reserved:
                pinned += self._decodes.blocks(self._reserved, steps)
        return pinned / self._batch.cache.capacity

    # -- spans --------------------------------------------------------------------------------------------------

    def _ended(self, steps: int) -> float:
        """When the span's first `steps` steps have ended [s]."""
        return self._start + steps * self._first + self._slope * (0.5 * steps * (steps - 1))

    def _steps_by(self, now: float) -> int:
        """How many steps of the span have ended by `now`; less than all."""
        ahead = now - self._start
        if ahead <= 0.0:
            return 0
        most = self._count - 1
        middle = self._first - 0.5 * self._slope
        estimate = 2.0 * ahead / (middle + math.sqrt(middle * middle + 2.0 * self._slope * ahead))
        steps = most if estimate >= most else int(estimate)
        while steps and self._ended(steps) > now:
            steps -= 1
        while steps < most and self._ended(steps + 1) <= now:
            steps += 1
        return steps

    def _cut(self, now: float) -> None:
        """End the span with the step that is under way."""
        steps = self._steps_by(now) + 1
        if steps < self._count:
            self._count = steps
            self._end = self._ended(steps)

    def _settle(self) -> None:
        """Account for the steps that have ended: the span begins with the step under way."""
        if self._count > 1 and self._end < math.inf:
            steps = self._steps_by(self._now)
            if steps:
                start = self._ended(steps)
                self._commit(steps)
                self._start = start
                self._first += self._slope * steps
                self._count -= steps

    def _interrupt(self, now: float) -> None:
        """Come to the step under way, all of whose blocks and keys are given; it will be the span's last."""
        if now > self._now:
            self._now = now
        if self._end < math.inf:
            self._settle()
            self._cut(now)
            self._reserve(1)
            self._batch.flush(self._decodes.step)

    def _wake(self, now: float) -> None:
        batch = self._batch
        if self._end == math.inf and (batch.running or batch.waiting or batch.coming):
            self._ready = min(self._ready, now)

    def _commit(self, steps: int) -> None:
        """The span's first `steps` steps have ended."""
        decodes = self._decodes
        totals = self._batch.totals
        sequences = decodes.count
        if sequences:
            reserved = self._reserved
            if reserved < steps:  # as `_reserve`, without its call: this is done for every span
                blocks = decodes.blocks(reserved, steps)
                if blocks:
                    cache = self._batch.cache
                    cache.blank -= blocks
                    if cache.blank < 0:
                        self._batch.evict()
            tokens = sequences * steps
            decodes.kv_tokens += tokens
            totals.generated_tokens += tokens
            first = self._first
            self.gaps.observe(first, first + self._slope * (steps - 1), steps, sequences)
        self._reserved = 0
        decodes.step += steps
        totals.steps += steps

    def _reserve(self, steps: int) -> None:
        """Take the blocks that decodes need in the span's first `steps` steps; there is room."""
        if steps > self._reserved:
            blocks = self._decodes.blocks(self._reserved, steps)
            self._reserved = steps
            if blocks:
                self._batch.take(blocks)

    def _complete(self, done: list[Milestone]) -> None:
        """The span has ended: who gave a first or a last token, and what comes next."""
        now = self._end
        self._commit(self._count)
        batch = self._batch
        decodes = self._decodes
        last = decodes.step - 1
        finishes = decodes.finishes
        fills = decodes.fills
        if fills and fills[0][0] <= last and (batch.watch or (finishes and finishes[0][0] <= last)):
            batch.flush(last)
        while finishes and finishes[0][0] <= last:
            finish, serial, sequence = heappop(finishes)
            if sequence.serial == serial and sequence.finish == finish:
                batch.finish(sequence)
                sequence.ended = now
                done.append(_new(Milestone, (now, sequence, True)))
        if batch.prefill:
            prefill, batch.prefill = batch.prefill, []
            for sequence, count, serial in prefill:
                if sequence.serial == serial:
                    sequence.computed += count
                    if sequence is not batch.partial:
                        self._prefilled(sequence, now, done)
        if batch.passed:
            batch.resume()
        if batch.changes:
            self._changed.append(Changed(now, batch.changes))
            batch.changes = []
        self._end = math.inf
        if batch.running or batch.waiting or batch.coming:
            self._begin(now)

    def _prefilled(self, sequence: Runner, now: float, done: list[Milestone]) -> None:
        """A sequence has computed all that was known of it: it gives a token, and decodes from the next step on."""
        request = sequence.request
        totals = self._batch.totals
        totals.generated_tokens += 1
        if sequence.generated == 0:
            sequence.first_output = now
            totals.prompt_tokens += request.prompt_tokens
            totals.cached_tokens += sequence.cached_tokens
            done.append(_new(Milestone, (now, sequence, False)))
        else:
            gap = now - sequence.last_output
            self.gaps.observe(gap, gap, 1, 1)
        sequence.generated += 1
        left = request.output_tokens - sequence.generated
        if left:
            self._decodes.enter(sequence, sequence.computed, left)
        else:
            self._batch.finish(sequence)
            sequence.ended = now
            done.append(_new(Milestone, (now, sequence, True)))

    def _begin(self, now: float) -> None:
        """Start the next step, or as many as nothing disturbs."""
        self._ready = math.inf
        self._start = now
        self._reserved = 0
        batch = self._batch
        decodes = self._decodes
        stay = UNDISTURBED
        if batch.disturbed():
            while True:
                stay = batch.schedule(now)
                if batch.prefill:
                    self._mixed()
                    return
                if decodes.count or stay != PREEMPTED:
                    break
                batch.resume()  # a step in which nobody can run takes no time
            self._reserved = 1
        if not decodes.count:
            self._ready = batch.next_arrival(now)
            return
        model = self.model
        self._slope = model.c2 * decodes.count
        self._first = model.c0 + model.c1 * decodes.count + model.c2 * decodes.kv_tokens
        self._count = batch.steps(stay, self._reserved)
        self._end = self._ended(self._count)
        if batch.coming and self._count > 1:
            self._cut_for(batch.next_arrival(now))

    def _cut_for(self, arrival: float) -> None:
        """End the span with the first step that ends no sooner than this."""
        if arrival < self._end:
            steps = self._steps_by(arrival)
            if not steps or self._ended(steps) < arrival:
                steps += 1
            self._count = steps
            self._end = self._ended(steps)

    def _mixed(self) -> None:
        """The next step has prefills in it."""
        model = self.model
        batch = self._batch
        prefill = 0
        kv_tokens = self._decodes.kv_tokens
        attention = 0.0
        for sequence, count, _ in batch.prefill:
            computed = sequence.computed
            if count == 1 and sequence.decoding:
                kv_tokens += computed
            else:
                prefill += count
                attention += count * (computed + 0.5 * count)
        sequences = self._decodes.count + len(batch.prefill)
        self._first = step_seconds(model, sequences, kv_tokens, prefill, attention) + batch.adapter_seconds
        self._slope = 0.0
        self._count = 1
        self._reserved = 1
        self._end = self._start + self._first
