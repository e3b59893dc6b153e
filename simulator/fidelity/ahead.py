"""vLLM's scheduler with its steps taken apart: a step is counted as done when it is put together.

That is how an engine with `async_scheduling` sees its requests, and why this is not `simulator.engine`: there a step's
tokens count at its end. Requests come first come, first served; blocks are `simulator.engine`'s.
"""

from __future__ import annotations

from collections import deque

from kvroute.simulator.engine.cache import PrefixCache
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest


class Member:
    """One request in the scheduler's eyes."""

    __slots__ = (
        "blocks",
        "cached",
        "computed",
        "generated",
        "index",
        "outputs",
        "preempted",
        "prompt",
        "request",
        "running",
        "scheduled",
        "stored",
    )  # fmt: skip

    def __init__(self, index: int, request: EngineRequest, cached: int | None = None) -> None:
        self.index = index
        """Its place in the order of arrival."""
        self.request = request
        self.prompt = request.prompt_tokens
        self.outputs = request.output_tokens
        self.blocks: list[int] = []
        self.computed = 0
        """Tokens whose KV is in its blocks once all steps under way have ended."""
        self.generated = 0
        """Output tokens by then."""
        self.stored = 0
        """Its leading blocks that answer to a key."""
        self.cached = cached
        """Tokens that the cache is known to have held for it when it was first scheduled; None: the cache decides."""
        self.running = False
        self.preempted = False
        self.scheduled = 0.0
        """When it was first put into a step [s]."""

    @property
    def decoding(self) -> bool:
        """Whether its next step computes one generated token only."""
        return self.generated > 0 and self.computed == self.prompt + self.generated - 1


Plan = list[tuple[Member, int]]
"""Who is in a step, and with how many tokens."""


class Ahead:
    """The waiting queue, the running batch and the cache of one replica."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.cache = PrefixCache(limits.blocks, limits.block_size)
        self.waiting: deque[Member] = deque()
        self.running: list[Member] = []
        self.preemptions = 0
        self.hit_tokens = 0
        self._size = limits.block_size

    def plan(self, now: float) -> Plan:
        """Put together the next step at `now` and count its tokens; empty where there is nothing to do.

        A request whose last token is under way keeps its slot and its blocks, and is in no further step.
        """
        plan: Plan = []
        budget = self.limits.max_num_batched_tokens
        before = self.preemptions
        index = 0
        while index < len(self.running) and budget > 0:
            member = self.running[index]
            index += 1
            if member.generated >= member.outputs:
                continue
            count = min(member.prompt + member.generated - member.computed, budget)
            if not self._make_room(member, count):
                break
            plan.append((member, count))
            budget -= count
        if self.preemptions == before:
            self._admit(plan, budget, now)
        return plan

    def decode_steps(self) -> int:
        """Equal steps that can be taken at once: all decode, nobody ends before the last, all find room; else 0."""
        steps = min((m.outputs - m.generated if m.decoding else 0 for m in self.running), default=0)
        size, free = self._size, self.cache.free_blocks
        while steps > 1:
            if sum((size - 1 + m.computed + steps) // size - len(m.blocks) for m in self.running) <= free:
                return steps
            steps //= 2
        return 0

    def decode(self, steps: int) -> None:
        """Take those steps, and count their tokens."""
        size = self._size
        for member in self.running:
            self._grow(member, (size - 1 + member.computed + steps) // size - len(member.blocks), steps)
            member.computed += steps
            member.generated += steps

    def admits(self) -> bool:
        """Whether the head of the queue would be taken into a step that only decodes."""
        if not self.waiting or len(self.running) >= self.limits.max_num_seqs:
            return False
        room = self.limits.max_num_batched_tokens - len(self.running)
        return room > 0 and self._entry(self.waiting[0], room) is not None

    def leave(self, member: Member) -> None:
        """Its last token is known."""
        (self.running if member.running else self.waiting).remove(member)
        self.cache.release(member.blocks)
        member.blocks = []

    def _make_room(self, member: Member, count: int) -> bool:
        """Give a running request the blocks for `count` more tokens, at the cost of those that came last."""
        while True:
            fresh = (self._size - 1 + member.computed + count) // self._size - len(member.blocks)
            if fresh <= self.cache.free_blocks:
                self._grow(member, fresh, count)
                return True
            victim = self.running.pop()
            self._preempt(victim)
            if victim is member:
                return False

    def _admit(self, plan: Plan, budget: int, now: float) -> None:
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            member = self.waiting[0]
            matched = self._entry(member, budget)
            if matched is None:
                return
            self.waiting.popleft()
            hit = self._hit(member, matched)
            self.cache.pin(matched)
            member.blocks = matched
            member.computed = hit
            member.stored = len(matched)
            member.running = True
            if not member.preempted:
                member.scheduled = now
                self.hit_tokens += hit
            self.running.append(member)
            count = min(member.prompt + member.generated - hit, budget)
            self._grow(member, (self._size - 1 + hit + count) // self._size - len(matched), count)
            plan.append((member, count))
            budget -= count

    def _entry(self, member: Member, budget: int) -> list[int] | None:
        """The cached blocks that a waiting request begins with; None where it finds no room."""
        known = member.prompt + member.generated
        matched = self.cache.match(member.request.keys, (known - 1) // self._size) if member.cached is None else []
        hit = self._hit(member, matched)
        count = known - hit if self.limits.reserve_prompt else min(known - hit, budget)
        fresh = (self._size - 1 + hit + count) // self._size - len(matched)
        return matched if self.cache.fits(matched, fresh) else None

    def _hit(self, member: Member, matched: list[int]) -> int:
        """Tokens that need not be computed."""
        if member.cached is None:
            return len(matched) * self._size
        return 0 if member.preempted else min(member.cached, member.prompt - 1)

    def _grow(self, member: Member, fresh: int, count: int) -> None:
        """Take `fresh` blocks; those that `count` more tokens fill answer to their keys from now on."""
        if fresh > 0:
            member.blocks.extend(self.cache.take(fresh, []))
        keys = member.request.keys
        full = min((member.computed + count) // self._size, len(keys))
        for index in range(member.stored, full):
            self.cache.store(member.blocks[index : index + 1], keys[index])
        member.stored = max(full, member.stored)

    def _preempt(self, member: Member) -> None:
        """Free its blocks; it computes them again, from the head of the queue."""
        self.cache.release(member.blocks)
        member.blocks = []
        member.computed = member.stored = 0
        member.running = False
        member.preempted = True
        self.preemptions += 1
        self.waiting.appendleft(member)
