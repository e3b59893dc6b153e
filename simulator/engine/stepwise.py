"""One replica as a discrete-event model of vLLM's scheduler: continuous batching over a block-granular prefix cache.

The caller owns the clock: `advance(now)` completes every step that ends by `now` and returns them; `add` and `abort`
act at a `now` that the engine has been advanced to; `next_event_time()` says when it wants to be called again.
"""

from __future__ import annotations

import math
from collections import deque

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine import order
from kvroute.simulator.engine.adapters import Adapters
from kvroute.simulator.engine.cache import PrefixCache
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.offload import Offload
from kvroute.simulator.engine.sequence import EngineRequest, Phase, Sequence
from kvroute.simulator.engine.step import Change, Cleared, Output, Removed, Step, Stored
from kvroute.simulator.engine.steptime import step_seconds
from kvroute.simulator.engine.totals import Totals


class Engine:
    """One replica: a waiting queue, a running batch, a cache."""

    def __init__(self, limits: Limits, model: StepTime) -> None:
        self.limits = limits
        self.model = model
        self.cache = PrefixCache(limits.blocks, limits.block_size, limits.blocks_per_key)
        self.offload = Offload(limits.cpu_blocks, limits.blocks_per_key, limits.cpu_seconds_per_block)
        self.adapters = Adapters(limits.max_loras, limits.adapter_seconds)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.coming: list[Sequence] = []
        """Those that wait for KV to arrive, or for their turn since it has; they hold the room of their prompts."""
        self.totals = Totals()
        self.paused = False
        self._key = limits.blocks_per_key * limits.block_size
        self._adapter_seconds = 0.0
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
        if self.limits.policy == "priority":
            order.enter(self.waiting, sequence)
        else:
            self.waiting.append(sequence)
        self._wake(now)
        return sequence

    def abort(self, sequence: Sequence, now: float) -> None:
        """Drop a sequence at once: its blocks are free, its slot is free. The step under way is not shortened."""
        if sequence.phase in (Phase.FINISHED, Phase.ABORTED):
            return
        self._reach(now)
        if sequence.phase is Phase.WAITING:
            (self.coming if sequence in self.coming else self.waiting).remove(sequence)
        else:
            self._stop(sequence)
        self._release(sequence)
        sequence.phase = Phase.ABORTED
        sequence.ended = now
        self._wake(now)

    def release(self, sequence: Sequence, now: float) -> None:
        """Let go of the blocks that a finished sequence was to keep. A second call changes nothing."""
        if sequence.phase is Phase.FINISHED and sequence.blocks:
            self._reach(now)
            self._release(sequence)
            self._wake(now)

    def reset_cache(self) -> bool:
        """Forget all cached blocks; False while requests run. Announced with the next step, as vLLM does."""
        done = self.cache.reset()
        if done:
            self.offload.clear()
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
        if self._end == math.inf and not self.paused and (self.running or self.waiting or self.coming):
            self._ready = min(self._ready, now)

    def _begin(self, now: float) -> None:
        self._ready = math.inf
        before = self.totals.preemptions
        plan = self._schedule(now)
        while not plan and self.totals.preemptions > before:  # a step in which nobody can run takes no time
            before = self.totals.preemptions
            plan = self._schedule(now)
        if not plan:
            self._ready = min((one.ready for one in self.coming if one.ready > now), default=math.inf)
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
        self._end = now + step_seconds(self.model, len(plan), kv_tokens, prefill, attention) + self._adapter_seconds

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
            self._stop(sequence)
            if not sequence.request.keep:
                self._release(sequence)
            sequence.phase = Phase.FINISHED
            sequence.ended = now
        return Output(sequence, sequence.generated - 1, 1, finished)

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.adapters.stop(sequence.request.adapter)

    def _release(self, sequence: Sequence) -> None:
        self.cache.release(sequence.blocks)
        sequence.blocks = []

    # -- the scheduler ------------------------------------------------------------------------------------------

    def _schedule(self, now: float) -> list[tuple[Sequence, int]]:
        """Who runs in the next step, and how many tokens of each: the running ones first, then the queue's head."""
        plan: list[tuple[Sequence, int]] = []
        before = self.totals.preemptions
        self._adapter_seconds = 0.0
        budget = self.limits.max_num_batched_tokens
        while len(plan) < len(self.running) and budget > 0:
            sequence = self.running[len(plan)]
            count = min(sequence.known - sequence.computed, budget)
            if not self._make_room(sequence, count, plan):
                break
            plan.append((sequence, count))
            if self.totals.preemptions == before:
                budget -= count
            else:  # what was planned for a victim is free again
                budget = self.limits.max_num_batched_tokens - sum(planned for _, planned in plan)
        if self.totals.preemptions == before:
            self._admit(plan, budget, now)
        return plan

    def _make_room(self, sequence: Sequence, count: int, plan: list[tuple[Sequence, int]]) -> bool:
        """Give a running sequence the blocks for `count` more tokens, at the cost of those that come last."""
        while True:
            fresh = self._blocks_for(sequence.computed + count) - len(sequence.blocks)
            if self.cache.fits((), fresh):
                self._grow(sequence, fresh, count)
                return True
            victim = order.last(self.running) if self.limits.policy == "priority" else self.running[-1]
            plan[:] = [entry for entry in plan if entry[0] is not victim]
            self._preempt(victim)
            if victim is sequence:
                return False

    def _admit(self, plan: list[tuple[Sequence, int]], budget: int, now: float) -> None:
        """Start what waits, in order: those whose KV has come, which need no room, then the queue."""
        for sequence in [one for one in self.coming if one.ready <= now]:
            if budget > 0 and len(self.running) < self.limits.max_num_seqs and self._adapter_fits(sequence):
                self.coming.remove(sequence)
                budget -= self._run(sequence, 0, budget, plan, now)
        index = 0
        while index < len(self.waiting) and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            sequence = self.waiting[index]
            if not self._adapter_fits(sequence):
                index += 1
                continue
            matched = self.cache.match(sequence.request.keys, (sequence.known - 1) // self._key)
            hit = len(matched) * self.limits.block_size
            coming = self._coming(sequence, hit)
            whole = self._blocks_for(sequence.known) - len(matched)
            chunk = self._blocks_for(min(sequence.known, hit + budget)) - len(matched)
            fresh = whole if coming else chunk
            if not self.cache.fits(matched, whole if self.limits.reserve_prompt else fresh):
                return
            del self.waiting[index]
            self.cache.pin(matched)
            sequence.blocks = matched
            sequence.computed = hit
            sequence.stored = hit // self._key
            if coming:
                self._await(sequence, fresh, coming, now)
                if sequence.ready > now:
                    self.coming.append(sequence)
                    continue
                fresh = 0
            budget -= self._run(sequence, fresh, budget, plan, now)

    def _adapter_fits(self, sequence: Sequence) -> bool:
        return self.adapters.fit(sequence.request.adapter)

    def _coming(self, sequence: Sequence, hit: int) -> int:
        """Tokens behind the `hit` cached ones whose KV comes from another replica, or from the host's memory."""
        request = sequence.request
        if request.remote_tokens and not sequence.preemptions:
            return max(0, min(request.remote_tokens, sequence.known - 1) - hit)
        return self._key * self.offload.match(request.keys, hit // self._key, (sequence.known - 1) // self._key)

    def _await(self, sequence: Sequence, fresh: int, coming: int, now: float) -> None:
        """Hold the room of the whole prompt while KV is on its way; nobody else waits for that."""
        request = sequence.request
        if request.remote_tokens and not sequence.preemptions:
            sequence.ready = request.ready_at
        else:
            sequence.ready = self.offload.load(request.keys, sequence.stored, coming // self._key, now)
        self._take(sequence, fresh)
        sequence.computed += coming

    def _run(self, sequence: Sequence, fresh: int, budget: int, plan: list[tuple[Sequence, int]], now: float) -> int:
        """A sequence runs from this step on; returns how many of its tokens that computes."""
        request = sequence.request
        sequence.phase = Phase.RUNNING
        self._adapter_seconds += self.adapters.start(request.adapter)
        if sequence.preemptions == 0:
            sequence.scheduled = now
            sequence.cached_tokens = sequence.computed
            self.totals.queried_tokens += sequence.known
            self.totals.hit_tokens += sequence.stored * self._key
        if sequence.preemptions or not request.report_full:
            sequence.reported = sequence.stored
        self.running.append(sequence)
        count = min(sequence.known - sequence.computed, budget)
        self._grow(sequence, fresh, count)
        plan.append((sequence, count))
        return count

    def _grow(self, sequence: Sequence, fresh: int, count: int) -> None:
        """Take `fresh` blocks; those that the step's `count` tokens will fill are cached, and announced at its end."""
        self._take(sequence, fresh)
        keys = sequence.request.keys
        each = self.limits.blocks_per_key
        full = min((sequence.computed + count) // self._key, len(keys))
        for index in range(sequence.stored, full):
            self.cache.store(sequence.blocks[index * each : (index + 1) * each], keys[index])
        sequence.stored = max(full, sequence.stored)
        if sequence.stored > sequence.reported:
            self._changes.append(Stored(sequence, sequence.reported, sequence.stored - sequence.reported))
            sequence.reported = sequence.stored

    def _take(self, sequence: Sequence, fresh: int) -> None:
        if fresh > 0:
            removed: list[int] = []
            sequence.blocks.extend(self.cache.take(fresh, removed))
            self._changes.extend(Removed(key) for key in removed)
            if self.limits.cpu_blocks:
                self.offload.admit(removed)

    def _preempt(self, sequence: Sequence) -> None:
        """Free a running sequence's blocks; it computes them again, from the queue's head."""
        self._stop(sequence)
        self._release(sequence)
        sequence.computed = sequence.stored = 0
        sequence.phase = Phase.WAITING
        sequence.preemptions += 1
        self.totals.preemptions += 1
        if self.limits.policy == "priority":
            order.enter_again(self.waiting, sequence)
        else:
            self.waiting.appendleft(sequence)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)
