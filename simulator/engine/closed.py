"""One replica as a discrete-event model of vLLM's scheduler, in which decode steps between events are one sum.

The same as `stepwise`, at a cost that does not depend on the size of the batch, the length of answers or of prompts. A
span is one step, or as many steps of equal decodes as nothing can disturb: until a sequence ends, a new one could be
admitted, or the cache runs out of room. Within it step j lasts `first + j * slope`, since each decode reads one more
token a step; who needs a new block in which step follows from the step's number modulo the block size.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.contract import Changed, Milestone
from kvroute.simulator.engine.gaps import Gaps
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.radix import Hold, RadixCache
from kvroute.simulator.engine.sequence import EngineRequest, Phase, Sequence
from kvroute.simulator.engine.step import Change, Removed, Stored
from kvroute.simulator.engine.totals import Totals

_UNDISTURBED = 0
"""Nothing that waits could run before a sequence ends."""
_NO_ROOM = 1
"""The queue's head lacks room."""
_PREEMPTED = 2
"""A step that preempted admits nobody; the next one may."""


class Runner(Sequence):
    """A sequence as the closed form keeps it."""

    __slots__ = ("finish", "held", "hold", "last_output", "number", "serial")

    def __init__(self, request: EngineRequest, now: float) -> None:
        super().__init__(request, now)
        self.hold = Hold()
        self.serial = -1
        """Number of its admission, by which running sequences are ordered; -1 while it does not run."""
        self.finish = -1
        """While it decodes: the step that gives its last token."""
        self.number = 0
        """While it decodes: it needs a block in each step of this number modulo the block size."""
        self.held = 0
        """While it prefills: its blocks, with those of the step under way."""
        self.last_output = now
        """When a preempted one gave its last token [s]."""


class ClosedForm:
    """One replica: a waiting queue, a running batch, a cache."""

    def __init__(self, limits: Limits, step: StepTime, watch: bool = False, gaps: Gaps | None = None) -> None:
        """`watch`: keep the changes of the cache for `take_changes`. `gaps`: where inter-token times are counted."""
        if limits.max_num_batched_tokens < limits.max_num_seqs:
            raise ValueError("max_num_batched_tokens must not be less than max_num_seqs")
        self.limits = limits
        self.model = step
        self.gaps = Gaps() if gaps is None else gaps
        self._size = limits.block_size
        self._key = limits.key_tokens or limits.block_size
        self._each, rest = divmod(self._key, self._size)
        if rest or self._each < 1:
            raise ValueError(f"key_tokens must be a multiple of block_size ({self._size}), not {self._key}")
        self._cache = RadixCache(limits.blocks, self._each)
        self._most = self._cache.capacity * self._size
        self._waiting: deque[Runner] = deque()
        self._running: dict[Runner, None] = {}
        """In order of admission."""
        self._partial: Runner | None = None
        """The one whose prefill is not complete; it is the last of those that run."""
        self._prefill: list[tuple[Runner, int, int]] = []
        """Of the step under way: who computes how many tokens, by the number of its admission."""
        self._decoding = 0
        self._kv = 0
        """Tokens that the decodes of the span's first step read."""
        self._ring: list[dict[Runner, None]] = [{} for _ in range(self._size)]
        self._finishes: list[tuple[int, int, Runner]] = []
        self._fills: list[tuple[int, int, Runner]] = []
        """Steps in which generated tokens complete a key."""
        self._serial = 0
        self._step = 0
        """Number of the span's first step."""
        self._start = -math.inf
        self._end = math.inf
        self._first = 0.0
        self._slope = 0.0
        self._count = 0
        self._reserved = 0
        """Leading steps of the span whose blocks are taken."""
        self._ready = math.inf
        self._now = -math.inf
        self._totals = Totals()
        self._watch = watch
        self._changes: list[Change] = []
        self._changed: list[Changed] = []

    # -- what the caller does -----------------------------------------------------------------------------------

    def add(self, request: EngineRequest, now: float) -> Runner:
        """Queue a request.

        Raises:
            ValueError: it is empty, or could never fit into the cache.
        """
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"{request.id}: a request needs at least one prompt and one output token")
        tokens = request.prompt_tokens + request.output_tokens
        if tokens > self._most:
            raise ValueError(
                f"{request.id}: {request.prompt_tokens} + {request.output_tokens} tokens never fit {self._most}"
            )
        sequence = Runner(request, now)
        if self._end == math.inf:
            if now < self._ready:
                self._ready = now
        elif self._count > 1 and not self._waiting:
            self._cut(now)
        self._waiting.append(sequence)
        if now > self._now:
            self._now = now
        return sequence

    def abort(self, sequence: Sequence, now: float) -> None:
        """Drop a sequence at once: its blocks are free, its slot is free. The step under way is not shortened."""
        assert isinstance(sequence, Runner)
        if sequence.phase in (Phase.FINISHED, Phase.ABORTED):
            return
        self._now = max(self._now, now)
        if self._end < math.inf:
            self._cut(now)
            self._settle()
            self._reserve(1)
            self._flush(self._step)
        if sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
        else:
            self._stop(sequence, 1)
        sequence.phase = Phase.ABORTED
        sequence.ended = now

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
        return self._totals

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the blocks that running requests hold [0..1]."""
        self._settle()
        pinned = self._cache.pinned_blocks
        if self._end < math.inf and not self._reserved:
            pinned += len(self._ring[self._step % self._size])
        return pinned / self._cache.capacity

    # -- spans --------------------------------------------------------------------------------------------------

    def _ended(self, steps: int) -> float:
        """When the span's first `steps` steps have ended [s]."""
        return self._start + steps * self._first + self._slope * (0.5 * steps * (steps - 1))

    def _steps_by(self, now: float) -> int:
        """How many steps of the span have ended by `now`; less than all."""
        ahead = now - self._start
        if ahead <= 0.0:
            return 0
        middle = self._first - 0.5 * self._slope
        steps = min(int(2.0 * ahead / (middle + math.sqrt(middle * middle + 2.0 * self._slope * ahead))), self._count)
        while steps and self._ended(steps) > now:
            steps -= 1
        while steps < self._count and self._ended(steps + 1) <= now:
            steps += 1
        return min(steps, self._count - 1)

    def _cut(self, now: float) -> None:
        """End the span with the step that is under way."""
        if self._count > 1:
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

    def _commit(self, steps: int) -> None:
        """The span's first `steps` steps have ended."""
        sequences = self._decoding
        totals = self._totals
        if sequences:
            if self._reserved < steps:
                self._reserve(steps)
            self._reserved -= steps
            tokens = sequences * steps
            self._kv += tokens
            totals.generated_tokens += tokens
            first = self._first
            self.gaps.observe(first, first + self._slope * (steps - 1), steps, sequences)
        else:
            self._reserved = 0
        self._step += steps
        totals.steps += steps

    def _reserve(self, steps: int) -> None:
        """Take the blocks that decodes need in the span's first `steps` steps; there is room."""
        first = self._step + self._reserved
        count = steps - self._reserved
        if count <= 0:
            return
        self._reserved = steps
        size = self._size
        ring = self._ring
        if count == 1:
            blocks = len(ring[first % size])
        else:
            cycles, rest = divmod(count, size)
            blocks = cycles * self._decoding
            for number in range(first, first + rest):
                blocks += len(ring[number % size])
        if blocks:
            self._cache.take(blocks, None)

    def _complete(self, done: list[Milestone]) -> None:
        """The span has ended: who gave a first or a last token, and what comes next."""
        now = self._end
        self._commit(self._count)
        last = self._step - 1
        if self._watch:
            self._flush(last)
        finishes = self._finishes
        while finishes and finishes[0][0] <= last:
            _, serial, sequence = heappop(finishes)
            if sequence.serial == serial:
                self._finish(sequence, now)
                done.append(Milestone(now, sequence, True))
        if self._prefill:
            for sequence, count, serial in self._prefill:
                if sequence.serial == serial:
                    sequence.computed += count
                    if sequence is not self._partial:
                        self._prefilled(sequence, now, last, done)
            self._prefill = []
        if self._changes:
            self._changed.append(Changed(now, self._changes))
            self._changes = []
        self._end = math.inf
        if self._running or self._waiting:
            self._begin(now)

    def _prefilled(self, sequence: Runner, now: float, last: int, done: list[Milestone]) -> None:
        """A sequence has computed all that was known of it: it gives a token, and decodes from the next step on."""
        request = sequence.request
        totals = self._totals
        if sequence.generated == 0:
            sequence.first_output = now
            totals.prompt_tokens += request.prompt_tokens
            totals.cached_tokens += sequence.cached_tokens
            done.append(Milestone(now, sequence, False))
        else:
            gap = now - sequence.last_output
            self.gaps.observe(gap, gap, 1, 1)
        sequence.generated += 1
        totals.generated_tokens += 1
        remaining = request.output_tokens - sequence.generated
        if not remaining:
            self._finish(sequence, now)
            done.append(Milestone(now, sequence, True))
            return
        computed = sequence.computed
        sequence.finish = last + remaining
        heappush(self._finishes, (sequence.finish, sequence.serial, sequence))
        number = sequence.number = (last + 1 - computed) % self._size
        self._ring[number][sequence] = None
        self._decoding += 1
        self._kv += computed
        if sequence.stored < len(request.keys):
            self._fill(sequence)

    def _fill(self, sequence: Runner) -> None:
        """Note in which step a decoding sequence completes its next key."""
        request = sequence.request
        tokens = (sequence.stored + 1) * self._key
        step = sequence.finish - (request.prompt_tokens + request.output_tokens - 1 - tokens)
        if step <= sequence.finish:
            heappush(self._fills, (step, sequence.serial, sequence))

    def _flush(self, step: int) -> None:
        """Cache the keys that generated tokens have completed up to `step`."""
        fills = self._fills
        while fills and fills[0][0] <= step:
            _, serial, sequence = heappop(fills)
            if sequence.serial == serial:
                self._store(sequence, sequence.stored + 1)
                if sequence.stored < len(sequence.request.keys):
                    self._fill(sequence)

    def _finish(self, sequence: Runner, now: float) -> None:
        self._flush(self._step - 1)
        self._stop(sequence, 0)
        sequence.generated = sequence.request.output_tokens
        sequence.phase = Phase.FINISHED
        sequence.ended = now

    def _stop(self, sequence: Runner, ahead: int) -> None:
        """Take a sequence out of the batch; `ahead`: 1 where its token of the step under way has its block already."""
        del self._running[sequence]
        held = sequence.held
        if sequence.finish >= 0:
            request = sequence.request
            left = sequence.finish - self._step + 1
            computed = sequence.computed = request.prompt_tokens + request.output_tokens - 1 - left
            sequence.generated = request.output_tokens - left
            del self._ring[sequence.number][sequence]
            self._decoding -= 1
            self._kv -= computed
            sequence.finish = -1
            held = -(-(computed + ahead) // self._size)
        elif sequence is self._partial:
            self._partial = None
        sequence.serial = -1
        self._cache.release(sequence.hold, held - sequence.stored * self._each)

    # -- the scheduler ------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """Schedule the next step: the running ones first, then the queue's head."""
        self._ready = math.inf
        self._start = now
        self._reserved = 0
        cache = self._cache
        if (
            self._partial is not None
            or (self._waiting and len(self._running) < self.limits.max_num_seqs)
            or len(self._ring[self._step % self._size]) > (cache.blank if self._watch else cache.free_blocks)
        ):
            stay = self._schedule(now)
            if self._prefill:
                self._single(now)
                return
        else:
            stay = _UNDISTURBED
        if self._decoding:
            self._span(now, stay)

    def _single(self, now: float) -> None:
        """The step under way is one with prefills in it."""
        model = self.model
        prefill = 0
        kv_tokens = self._kv
        attention = 0.0
        for sequence, count, _ in self._prefill:
            computed = sequence.computed
            if count == 1 and sequence.generated and computed == sequence.known - 1:
                kv_tokens += computed
            else:
                prefill += count
                attention += count * (computed + 0.5 * count)
        self._first = (
            model.c0
            + model.c1 * (self._decoding + len(self._prefill))
            + model.c2 * kv_tokens
            + model.c3 * prefill
            + model.c4 * attention
        )
        self._slope = 0.0
        self._count = 1
        self._end = now + self._first

    def _span(self, now: float, stay: int) -> None:
        """As many steps of the present decodes as nothing disturbs."""
        decoding = self._decoding
        finishes = self._finishes
        while finishes[0][2].serial != finishes[0][1]:
            heappop(finishes)
        count = finishes[0][0] - self._step + 1
        cache = self._cache
        if ((count + self._size - 1) // self._size) * decoding > cache.free_blocks:
            count = self._steps_within(cache.free_blocks, count)
        if stay or self._watch:
            count = self._steps_until_change(stay, count)
        model = self.model
        self._first = model.c0 + model.c1 * decoding + model.c2 * self._kv
        self._slope = model.c2 * decoding
        self._count = count
        self._end = self._ended(count)

    def _steps_until_change(self, stay: int, count: int) -> int:
        """How many of `count` steps pass before the cache changes so that it must be told, or the queue's head fits."""
        if stay == _PREEMPTED or self._changes:
            return 1
        if self._watch or self._each > 1:
            count = max(1, self._steps_within(self._cache.blank, count))
        fills = self._fills
        if fills:
            # a key is found from the beginning of its step on, and told of at the end
            count = max(1, min(count, fills[0][0] - self._step + (stay == _UNDISTURBED)))
        return count

    def _steps_within(self, room: int, most: int) -> int:
        """How many steps, at most `most`, the decodes can go with `room` blocks; those reserved are not counted."""
        size = self._size
        cycles = room // self._decoding
        if cycles * size >= most:
            return most
        room -= cycles * self._decoding
        step = self._step + self._reserved
        count = cycles * size + self._reserved
        while count < most:
            room -= len(self._ring[(step + count - self._reserved) % size])
            if room < 0:
                break
            count += 1
        return min(count, most)

    def _schedule(self, now: float) -> int:
        """Give the next step's tokens their blocks. Returns what keeps the queue's head from running."""
        self._flush(self._step - 1)
        cache = self._cache
        budget = self.limits.max_num_batched_tokens
        partial = self._partial
        need = len(self._ring[self._step % self._size])
        fresh = 0
        if partial is not None:
            count = min(partial.known - partial.computed, budget - self._decoding)
            fresh = -(-(partial.computed + count) // self._size) - partial.held
        preempted = False
        if need + fresh > cache.free_blocks or (self._watch and need > cache.blank):
            preempted = self._squeeze(now)
        elif need:
            cache.take(need, None)
        self._reserved = 1
        self._flush(self._step)
        budget -= self._decoding
        partial = self._partial
        if partial is not None:
            count = min(partial.known - partial.computed, budget)
            self._grow(partial, count)
            budget -= count
        if preempted:
            return _PREEMPTED
        return self._admit(budget, now)

    def _squeeze(self, now: float) -> bool:
        """Blocks for the decodes of this step one by one, at the cost of those that came last where there are none."""
        cache = self._cache
        removed: list[int] | None = [] if self._watch else None
        before = self._totals.preemptions
        for sequence in list(self._ring[self._step % self._size]):
            while sequence.serial >= 0 and not cache.free_blocks:
                self._preempt(next(reversed(self._running)), now)
            if sequence.serial >= 0:
                if self._watch:
                    self._flush_before(sequence)
                cache.take(1, removed)
                if removed:
                    self._changes.extend(Removed(key) for key in removed)
                    removed.clear()
        partial = self._partial
        if partial is not None:
            count = min(partial.known - partial.computed, self.limits.max_num_batched_tokens - self._decoding)
            fresh = -(-(partial.computed + count) // self._size) - partial.held
            if fresh > cache.free_blocks:
                self._preempt(partial, now)
        return self._totals.preemptions > before

    def _flush_before(self, sequence: Runner) -> None:
        """Cache the keys that this step completes in sequences before this one, which is how they are announced."""
        fills = self._fills
        while fills and fills[0][0] <= self._step and fills[0][1] < sequence.serial:
            _, serial, other = heappop(fills)
            if other.serial == serial:
                self._store(other, other.stored + 1)
                if other.stored < len(other.request.keys):
                    self._fill(other)

    def _admit(self, budget: int, now: float) -> int:
        """Start what waits, in order. Returns whether the next one lacks room."""
        waiting = self._waiting
        running = self._running
        cache = self._cache
        size = self._size
        each = self._each
        slots = self.limits.max_num_seqs
        while waiting and budget > 0 and len(running) < slots:
            sequence = waiting[0]
            request = sequence.request
            known = request.prompt_tokens + sequence.generated
            keys, path, idle = cache.match(request.keys, (known - 1) // self._key)
            hit = keys * self._key
            count = known - hit
            if count > budget:
                count = budget
            fresh = -(-(hit + count) // size) - keys * each
            if fresh + idle * each > cache.free_blocks:
                return _NO_ROOM
            waiting.popleft()
            if path:
                cache.pin(sequence.hold, path, keys)
            sequence.computed = hit
            sequence.stored = keys
            sequence.held = keys * each
            sequence.phase = Phase.RUNNING
            totals = self._totals
            if sequence.preemptions == 0:
                sequence.scheduled = now
                sequence.cached_tokens = hit
                totals.queried_tokens += known
                totals.hit_tokens += hit
            if sequence.preemptions or not request.report_full:
                sequence.reported = keys
            sequence.serial = self._serial
            self._serial += 1
            running[sequence] = None
            self._grow(sequence, count)
            budget -= count
        return _UNDISTURBED

    def _grow(self, sequence: Runner, count: int) -> None:
        """Take the blocks for `count` more tokens of a prompt; the keys that they will fill are cached."""
        tokens = sequence.computed + count
        held = -(-tokens // self._size)
        if held > sequence.held:
            removed: list[int] | None = [] if self._watch else None
            self._cache.take(held - sequence.held, removed)
            sequence.held = held
            if removed:
                self._changes.extend(Removed(key) for key in removed)
        self._prefill.append((sequence, count, sequence.serial))
        request = sequence.request
        self._partial = sequence if tokens < request.prompt_tokens + sequence.generated else None
        full = min(tokens // self._key, len(request.keys))
        if full > sequence.stored or (self._watch and full > sequence.reported):
            self._store(sequence, full)

    def _store(self, sequence: Runner, full: int) -> None:
        """A sequence's keys up to `full` are cached from now on, and announced at the end of the step."""
        if full > sequence.stored:
            self._cache.store(sequence.hold, sequence.request.keys, sequence.stored, full)
            sequence.stored = full
        if self._watch and full > sequence.reported:
            self._changes.append(Stored(sequence, sequence.reported, full - sequence.reported))
        sequence.reported = full

    def _preempt(self, sequence: Runner, now: float) -> None:
        """Free a running sequence's blocks; it computes them again, from the queue's head."""
        if sequence.finish >= 0:
            sequence.last_output = now
        self._stop(sequence, 0)
        sequence.computed = sequence.stored = 0
        sequence.phase = Phase.WAITING
        sequence.preemptions += 1
        self._totals.preemptions += 1
        self._waiting.appendleft(sequence)
