"""One replica as a discrete-event model of vLLM's scheduler: continuous batching over a block-granular prefix cache.

The caller owns the clock: `advance(now)` completes every step that ends by `now` and returns them; `add` and `abort`
act at a `now` that the engine has been advanced to; `next_event_time()` says when it wants to be called again.
"""

from __future__ import annotations

import math
from collections import deque

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.cache import PrefixCache
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest, Phase, Sequence
from kvroute.simulator.engine.step import Change, Cleared, Output, Removed, Step, Stored
from kvroute.simulator.engine.steptime import step_seconds
from kvroute.simulator.engine.totals import Totals


class Engine:
    """One replica: a waiting queue, a running batch, a cache."""

    def __init__(self, limits: Limits, model: StepTime) -> None:
        self.limits = limits
        self.model = model
        self.cache = PrefixCache(limits.blocks, limits.block_size)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.totals = Totals()
        self.paused = False
        self._now = -math.inf
        self._start = -math.inf
        self._end = math.inf
        self._ready = math.inf
        self._plan: list[tuple[Sequence, int]] = []
        self._changes: list[Change] = []

    # -- what the caller does -----------------------------------------------------------------------------------

    def add(self, request: EngineRequest, now: float) -> Sequence:
        """Queue a request.

        Raises:
            ValueError: it is empty, or could never fit into the cache.
        """
        most = self.cache.capacity * self.limits.block_size
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"{request.id}: a request needs at least one prompt and one output token")
        if request.prompt_tokens + request.output_tokens > most:
            raise ValueError(f"{request.id}: {request.prompt_tokens} + {request.output_tokens} tokens never fit {most}")
        self._reach(now)
        sequence = Sequence(request, now)
        self.waiting.append(sequence)
        self._wake(now)
        return sequence

    def abort(self, sequence: Sequence, now: float) -> None:
        """Drop a sequence at once: its blocks are free, its slot is free. The step under way is not shortened."""
        if sequence.phase in (Phase.FINISHED, Phase.ABORTED):
            return
        self._reach(now)
        (self.waiting if sequence.phase is Phase.WAITING else self.running).remove(sequence)
        self._leave(sequence, Phase.ABORTED, now)

    def reset_cache(self) -> bool:
        """Forget all cached blocks; False while requests run. Announced with the next step, as vLLM does."""
        done = self.cache.reset()
        if done:
            self._changes.append(Cleared())
        return done

    def pause(self) -> None:
        """Start no further step; the one under way ends."""
        self.paused = True
        self._ready = math.inf

    def resume(self, now: float) -> None:
        """Start steps again."""
        self.paused = False
        self._reach(now)
        self._wake(now)

    def next_event_time(self) -> float:
        """When `advance` has something to do: the end of the step under way, or the start of one; inf when idle."""
        return min(self._end, self._ready)

    def advance(self, now: float) -> list[Step]:
        """Run until `now`: the steps that ended by then, in order."""
        done: list[Step] = []
        while True:
            if self._end <= now:
                done.append(self._complete())
            elif self._ready <= now:
                self._begin(self._ready)
            else:
                break
        self._reach(now)
        return done

    @property
    def kv_usage(self) -> float:
        """Share of the blocks that running requests hold [0..1]."""
        return self.cache.pinned_blocks / self.cache.capacity

    # -- one step -----------------------------------------------------------------------------------------------

    def _reach(self, now: float) -> None:
        if now > self._now:
            self._now = now

    def _wake(self, now: float) -> None:
        if self._end == math.inf and not self.paused and (self.running or self.waiting):
            self._ready = min(self._ready, now)

    def _begin(self, now: float) -> None:
        self._ready = math.inf
        plan = self._schedule(now)
        if not plan:
            return
        kv_tokens = prefill = 0
        attention = 0.0
        for sequence, count in plan:
            if sequence.decoding:
                kv_tokens += sequence.computed
            else:
                prefill += count
                attention += count * (sequence.computed + 0.5 * count)
        self._plan = plan
        self._start = now
        self._end = now + step_seconds(self.model, len(plan), kv_tokens, prefill, attention)

    def _complete(self) -> Step:
        now = self._end
        outputs: list[Output] = []
        tokens = 0
        for sequence, count in self._plan:
            tokens += count
            if sequence.phase is not Phase.RUNNING:
                continue
            sequence.computed += count
            if sequence.computed == sequence.known:
                outputs.append(self._generate(sequence, now))
        changes, self._changes = self._changes, []
        step = Step(self._start, now, outputs, changes, tokens)
        self.totals.steps += 1
        self._plan = []
        self._end = math.inf
        self._wake(now)
        return step

    def _generate(self, sequence: Sequence, now: float) -> Output:
        totals = self.totals
        if sequence.generated == 0:
            sequence.first_output = now
            totals.prompt_tokens += sequence.request.prompt_tokens
            totals.cached_tokens += sequence.cached_tokens
        sequence.generated += 1
        totals.generated_tokens += 1
        finished = sequence.generated == sequence.request.output_tokens
        if finished:
            self.running.remove(sequence)
            self._leave(sequence, Phase.FINISHED, now)
        return Output(sequence, sequence.generated - 1, 1, finished)

    def _leave(self, sequence: Sequence, phase: Phase, now: float) -> None:
        sequence.phase = phase
        sequence.ended = now
        self.cache.release(sequence.blocks)
        sequence.blocks = []

    # -- the scheduler ------------------------------------------------------------------------------------------

    def _schedule(self, now: float) -> list[tuple[Sequence, int]]:
        """Who runs in the next step, and how many tokens of each: the running ones first, then the queue's head."""
        plan: list[tuple[Sequence, int]] = []
        budget = self.limits.max_num_batched_tokens
        before = self.totals.preemptions
        index = 0
        while index < len(self.running) and budget > 0:
            sequence = self.running[index]
            count = min(sequence.known - sequence.computed, budget)
            if not self._make_room(sequence, count):
                break
            plan.append((sequence, count))
            budget -= count
            index += 1
        if self.totals.preemptions == before:
            self._admit(plan, budget, now)
        return plan

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Give a running sequence the blocks for `count` more tokens, at the cost of those that came last."""
        while True:
            fresh = self._blocks_for(sequence.computed + count) - len(sequence.blocks)
            if self.cache.fits((), fresh):
                self._grow(sequence, fresh, count)
                return True
            victim = self.running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False

    def _admit(self, plan: list[tuple[Sequence, int]], budget: int, now: float) -> None:
        size = self.limits.block_size
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            sequence = self.waiting[0]
            matched = self.cache.match(sequence.request.keys, (sequence.known - 1) // size)
            hit = len(matched) * size
            count = min(sequence.known - hit, budget)
            fresh = self._blocks_for(hit + count) - len(matched)
            if not self.cache.fits(matched, fresh):
                return
            self.waiting.popleft()
            self._start_running(sequence, matched, now)
            self._grow(sequence, fresh, count)
            plan.append((sequence, count))
            budget -= count

    def _start_running(self, sequence: Sequence, matched: list[int], now: float) -> None:
        hit = len(matched) * self.limits.block_size
        self.cache.pin(matched)
        sequence.blocks = matched
        sequence.computed = hit
        sequence.stored = len(matched)
        sequence.phase = Phase.RUNNING
        if sequence.preemptions == 0:
            sequence.scheduled = now
            sequence.cached_tokens = hit
            self.totals.queried_tokens += sequence.known
            self.totals.hit_tokens += hit
        if sequence.preemptions or not sequence.request.report_full:
            sequence.reported = len(matched)
        self.running.append(sequence)

    def _grow(self, sequence: Sequence, fresh: int, count: int) -> None:
        """Take `fresh` blocks; those that the step's `count` tokens will fill are cached, and announced at its end."""
        if fresh > 0:
            removed: list[int] = []
            sequence.blocks.extend(self.cache.take(fresh, removed))
            self._changes.extend(Removed(key) for key in removed)
        keys = sequence.request.keys
        full = min((sequence.computed + count) // self.limits.block_size, len(keys))
        for index in range(sequence.stored, full):
            self.cache.store(sequence.blocks[index], keys[index])
        sequence.stored = max(full, sequence.stored)
        if sequence.stored > sequence.reported:
            self._changes.append(Stored(sequence, sequence.reported, sequence.stored - sequence.reported))
            sequence.reported = sequence.stored

    def _preempt(self, sequence: Sequence) -> None:
        """Free a running sequence's blocks; it computes them again, from the queue's head."""
        self.cache.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.stored = 0
        sequence.phase = Phase.WAITING
        sequence.preemptions += 1
        self.totals.preemptions += 1
        self.waiting.appendleft(sequence)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)
