"""The scheduler of the closed form: who runs in the next step, with which blocks, at whose cost."""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heapreplace

from kvroute.simulator.engine import order
from kvroute.simulator.engine.adapters import Adapters
from kvroute.simulator.engine.decodes import Decodes
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.offload import Offload
from kvroute.simulator.engine.preemption import squeeze, squeeze_ranked
from kvroute.simulator.engine.radix import RadixCache
from kvroute.simulator.engine.runner import Runner
from kvroute.simulator.engine.sequence import Phase
from kvroute.simulator.engine.step import Change, Cleared, Removed, Stored
from kvroute.simulator.engine.totals import Totals

UNDISTURBED = 0
"""Nothing that waits could run before a sequence ends."""
NO_ROOM = 1
"""The first that could run lacks room."""
PREEMPTED = 2
"""A step that preempted admits nobody; the next one may."""

_ALL = 1 << 62


class Batch:
    """A waiting queue, a running batch, a cache."""

    def __init__(self, limits: Limits, watch: bool) -> None:
        self.limits = limits
        self._size = limits.block_size
        self._each = limits.blocks_per_key
        self._key = self._size * self._each
        self._slots = limits.max_num_seqs
        self._ranked = limits.policy == "priority"
        self.cache = RadixCache(limits.blocks, self._each)
        self.offload = Offload(limits.cpu_blocks, self._each, limits.cpu_seconds_per_block)
        self.adapters = Adapters(limits.max_loras, limits.adapter_seconds)
        self._lazy = not (watch or self._ranked or limits.cpu_blocks)
        """Nobody is told of keys that only their own sequence can ask for: it has them cached when it stops."""
        self.decodes = Decodes(self._size, self._key, self._lazy)
        self.waiting: deque[Runner] = deque()
        self.coming: list[Runner] = []
        """Those that wait for KV to arrive, or for their turn since it has; they hold the room of their prompts."""
        self.running: dict[Runner, None] = {}
        """In order of admission."""
        self.prefill: list[tuple[Runner, int, int]] = []
        """Of the next step: who computes how many tokens, with the number of its admission."""
        self.partial: Runner | None = None
        """The one whose prefill will not be complete; it is the last of those that run."""
        self.passed: list[Runner] = []
        """Those that decode, but not in the next step: it ends with the preemption of one before them."""
        self.adapter_seconds = 0.0
        """To load the adapters of those that the next step starts [s]."""
        self.totals = Totals()
        self.changes: list[Change] = []
        self.watch = watch
        self._told = watch or limits.cpu_blocks > 0
        self._fickle = self._each > 1 or limits.cpu_blocks > 0
        """An eviction may be what the queue's head waits for: it makes room for more than the block that it is for,
        or turns tokens to compute into tokens to bring back."""
        self._serial = 0

    @property
    def steady(self) -> bool:
        """A request that comes while others wait cannot run before them."""
        return not (self._ranked or self.coming or self.limits.max_loras)

    # -- who comes and goes -------------------------------------------------------------------------------------

    def enter(self, sequence: Runner) -> None:
        """Queue a sequence."""
        if self._ranked:
            order.enter(self.waiting, sequence)
        else:
            self.waiting.append(sequence)

    def withdraw(self, sequence: Runner) -> None:
        """Take a sequence out of the queue."""
        if sequence in self.coming:
            self.coming.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.let_go(sequence)

    def stop(self, sequence: Runner, ahead: int) -> None:
        """Take a sequence out of the batch; `ahead`: 1 where its decode of the next step has its block already."""
        del self.running[sequence]
        if sequence.finish >= 0 or sequence.left:
            if sequence.left:
                self.passed.remove(sequence)
                left, sequence.left, ahead = sequence.left, 0, 0
            else:
                left = self.decodes.leave(sequence)
            request = sequence.request
            sequence.generated = request.output_tokens - left
            sequence.computed = computed = request.prompt_tokens + sequence.generated - 1
            sequence.held = -(-(computed + ahead) // self._size)
            if self._lazy and request.alone:
                self._store(sequence, min((computed + ahead) // self._key, len(request.keys)))
        elif sequence is self.partial:
            self.partial = None
        sequence.serial = -1
        if sequence.request.adapter is not None:
            self.adapters.stop(sequence.request.adapter)

    def finish(self, sequence: Runner) -> None:
        """A sequence has given its last token, in the step before the next one."""
        request = sequence.request
        del self.running[sequence]
        if sequence.finish >= 0:
            computed = sequence.computed = request.prompt_tokens + request.output_tokens - 1
            decodes = self.decodes
            decodes.count -= 1
            decodes.kv_tokens -= computed
            del decodes.ring[sequence.number][sequence]
            sequence.finish = sequence.fill = -1
            sequence.held = -(-computed // self._size)
            if self._lazy and request.alone:
                full = computed // self._key
                if full > len(request.keys):
                    full = len(request.keys)
                if full > sequence.stored:
                    self.cache.store(sequence, request.keys, sequence.stored, full)
                    sequence.stored = full
        sequence.serial = -1
        sequence.generated = request.output_tokens
        sequence.phase = Phase.FINISHED
        if request.adapter is not None:
            self.adapters.stop(request.adapter)
        if not request.keep:
            self.cache.release(sequence, sequence.held - sequence.stored * self._each)
            sequence.held = 0

    def let_go(self, sequence: Runner) -> None:
        """Release the blocks of a sequence that has stopped."""
        if sequence.held:
            self.cache.release(sequence, sequence.held - sequence.stored * self._each)
            sequence.held = 0

    def resume(self) -> None:
        """Those that were passed over take part again."""
        passed, self.passed = self.passed, []
        for sequence in passed:
            left, sequence.left = sequence.left, 0
            request = sequence.request
            self.decodes.enter(sequence, request.prompt_tokens + request.output_tokens - 1 - left, left)

    def flush(self, step: int, before: int = _ALL) -> None:
        """Cache the keys that decodes complete up to `step`, in it those of who was admitted before number `before`."""
        fills = self.decodes.fills
        while fills:
            fill, serial, sequence = fills[0]
            if fill > step or (fill == step and serial >= before):
                return
            if sequence.serial != serial or sequence.fill != fill:
                heappop(fills)
                continue
            self._store(sequence, sequence.stored + 1)
            sequence.fill = fill = fill + self._key
            if fill <= sequence.finish and sequence.stored < len(sequence.request.keys):
                heapreplace(fills, (fill, serial, sequence))
            else:
                heappop(fills)

    def take(self, blocks: int) -> None:
        """Blocks for new content, for which there is room."""
        self.cache.blank -= blocks
        if self.cache.blank < 0:
            self.evict()

    def evict(self) -> None:
        """More blank blocks were taken than there were."""
        if not self._told:
            self.cache.evict(None)
            return
        removed: list[int] = []
        self.cache.evict(removed)
        if self.watch:
            self.changes += map(Removed, removed)
        if self.limits.cpu_blocks:
            self.offload.admit(removed)

    def reset_cache(self) -> bool:
        """Forget all content, unless somebody holds some."""
        done = self.cache.reset()
        if done:
            self.offload.clear()
            if self.watch:
                self.changes.append(Cleared())
        return done

    # -- the next step ------------------------------------------------------------------------------------------

    def disturbed(self) -> bool:
        """Whether the next step is more than the decodes of those that run, and room for them."""
        if self.partial is not None or ((self.waiting or self.coming) and len(self.running) < self._slots):
            return True
        decodes = self.decodes
        cache = self.cache
        need = len(decodes.ring[decodes.step % self._size])
        return need > cache.blank and (self.watch or need > cache.free_blocks)

    def steps(self, stay: int, reserved: int) -> int:
        """How many steps can pass with nothing but decodes, those that end included."""
        decodes = self.decodes
        steps = decodes.steps()
        free = self.cache.free_blocks
        if ((steps + self._size - 1) // self._size) * decodes.count > free:
            steps = decodes.steps_within(free, reserved, steps)
        if stay or self.watch:
            if stay == PREEMPTED or self.changes:
                return 1
            if self.watch or self._fickle:
                steps = max(1, decodes.steps_within(self.cache.blank, reserved, steps))
            if decodes.fills:
                # a key is found from the beginning of its step on, and told of at the end
                steps = max(1, min(steps, decodes.fills[0][0] - decodes.step + (stay == UNDISTURBED)))
        return steps

    def next_arrival(self, now: float) -> float:
        """When KV arrives next that somebody waits for [s]."""
        return min((one.ready for one in self.coming if one.ready > now), default=math.inf)

    def schedule(self, now: float) -> int:
        """Give the tokens of the next step their blocks: of the running first, then of the queue's head.

        Returns what keeps the queue's head from running.
        """
        decodes = self.decodes
        step = decodes.step
        fills = decodes.fills
        if fills and fills[0][0] < step:
            self.flush(step - 1)
        self.adapter_seconds = 0.0
        cache = self.cache
        budget = self.limits.max_num_batched_tokens
        partial = self.partial
        need = len(decodes.ring[step % self._size])
        fresh = chunk = 0
        if partial is not None:
            chunk = min(partial.known - partial.computed, budget - decodes.count)
            fresh = max(0, -(-(partial.computed + chunk) // self._size) - partial.held)
        if need + fresh > cache.free_blocks or (self.watch and need > cache.blank):
            before = self.totals.preemptions
            chunk = squeeze_ranked(self, now) if self._ranked else squeeze(self, now, chunk, fresh)
            preempted = self.totals.preemptions > before
        else:
            preempted = False
            if need:
                self.take(need)
        if fills and fills[0][0] <= step:
            self.flush(step)
        if chunk:
            assert self.partial is not None
            self._grow(self.partial, chunk, self.partial.known)
        if preempted:
            return PREEMPTED
        return self._admit(budget - decodes.count - chunk, now)

    def preempt(self, sequence: Runner, now: float, ahead: int) -> None:
        """Free a running sequence's blocks; it computes them again, from the queue's head."""
        if sequence.finish >= 0 or sequence.left:
            sequence.last_output = now
        self.stop(sequence, ahead)
        self.let_go(sequence)
        sequence.computed = sequence.stored = 0
        sequence.phase = Phase.WAITING
        sequence.preemptions += 1
        self.totals.preemptions += 1
        if self._ranked:
            order.enter_again(self.waiting, sequence)
        else:
            self.waiting.appendleft(sequence)

    def _admit(self, budget: int, now: float) -> int:
        """Start what waits, in order: those whose KV has come, then the queue."""
        waiting = self.waiting
        running = self.running
        cache = self.cache
        offloads = self.limits.cpu_blocks > 0
        whole = self.limits.reserve_prompt
        size = self._size
        slots = self._slots
        if self.coming:
            budget = self._admit_arrived(budget, now)
        index = 0
        while index < len(waiting) and budget > 0 and len(running) < slots:
            sequence = waiting[index]
            request = sequence.request
            if request.adapter is not None and not self.adapters.fit(request.adapter):
                index += 1
                continue
            known = request.prompt_tokens + sequence.generated
            keys, path, idle = cache.match(request.keys, (known - 1) // self._key)
            hit = keys * self._key
            coming = self._coming(sequence, keys) if offloads or request.remote_tokens else 0
            tokens = known
            if not (whole or coming or known - hit <= budget):
                tokens = hit + budget
            held = keys * self._each
            if -(-tokens // size) - held + idle * self._each > cache.free_blocks:
                return NO_ROOM
            if index:
                del waiting[index]
            else:
                waiting.popleft()
            if path:
                cache.pin(sequence, path, keys)
            sequence.computed = hit
            sequence.stored = keys
            sequence.held = held
            if coming:
                self._await(sequence, coming, now)
                if sequence.ready > now:
                    self.coming.append(sequence)
                    continue
            budget -= self._start(sequence, budget, now)
        return UNDISTURBED

    def _admit_arrived(self, budget: int, now: float) -> int:
        """Start those whose KV has come, which need no room; returns what is left of the budget."""
        for sequence in [one for one in self.coming if one.ready <= now]:
            if budget < 1 or len(self.running) >= self._slots:
                break
            if self.adapters.fit(sequence.request.adapter):
                self.coming.remove(sequence)
                budget -= self._start(sequence, budget, now)
        return budget

    def _coming(self, sequence: Runner, keys: int) -> int:
        """Tokens behind the cached `keys` whose KV comes from another replica, or from the host's memory."""
        request = sequence.request
        known = sequence.known
        if request.remote_tokens and not sequence.preemptions:
            return max(0, min(request.remote_tokens, known - 1) - keys * self._key)
        return self._key * self.offload.match(request.keys, keys, (known - 1) // self._key)

    def _await(self, sequence: Runner, coming: int, now: float) -> None:
        """Hold the room of the whole prompt while KV is on its way; nobody else waits for that."""
        request = sequence.request
        if request.remote_tokens and not sequence.preemptions:
            sequence.ready = request.ready_at
        else:
            sequence.ready = self.offload.load(request.keys, sequence.stored, coming // self._key, now)
        held = -(-sequence.known // self._size)
        self.take(held - sequence.held)
        sequence.held = held
        sequence.computed += coming

    def _start(self, sequence: Runner, budget: int, now: float) -> int:
        """A sequence runs from the next step on; returns how many of its tokens that computes."""
        request = sequence.request
        known = request.prompt_tokens + sequence.generated
        sequence.phase = Phase.RUNNING
        if request.adapter is not None:
            self.adapter_seconds += self.adapters.start(request.adapter)
        if sequence.preemptions == 0:
            sequence.scheduled = now
            sequence.cached_tokens = sequence.computed
            self.totals.queried_tokens += known
            self.totals.hit_tokens += sequence.stored * self._key
        if sequence.preemptions or not request.report_full:
            sequence.reported = sequence.stored
        sequence.serial = self._serial
        self._serial += 1
        self.running[sequence] = None
        count = known - sequence.computed
        if count > budget:
            count = budget
        self._grow(sequence, count, known)
        return count

    def _grow(self, sequence: Runner, count: int, known: int) -> None:
        """Take the blocks for `count` more tokens of a prompt; the keys that they will fill are cached."""
        tokens = sequence.computed + count
        fresh = -(-tokens // self._size) - sequence.held
        if fresh > 0:
            sequence.held += fresh
            self.cache.blank -= fresh
            if self.cache.blank < 0:
                self.evict()
        self.prefill.append((sequence, count, sequence.serial))
        self.partial = sequence if tokens < known else None
        full = tokens // self._key
        if full > len(sequence.request.keys):
            full = len(sequence.request.keys)
        if full > sequence.stored or full > sequence.reported:
            self._store(sequence, full)

    def _store(self, sequence: Runner, full: int) -> None:
        """A sequence's keys up to `full` are cached from now on, and announced at the end of the step."""
        if full > sequence.stored:
            self.cache.store(sequence, sequence.request.keys, sequence.stored, full)
            sequence.stored = full
        if full > sequence.reported:
            if self.watch:
                self.changes.append(Stored(sequence, sequence.reported, full - sequence.reported))
            sequence.reported = full
