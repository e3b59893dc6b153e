"""The running sequences that decode, as sums: each gives one token a step, so what they need follows from its number.

A sequence that has computed c tokens before step s needs a new block in each step whose number is s - c modulo the
block size, and gives its last token in a step that is known when it begins to decode.
"""

from __future__ import annotations

from heapq import heappop, heappush

from kvroute.simulator.engine.runner import Runner


class Decodes:
    """Sequences that decode from step `step` on."""

    __slots__ = ("_key", "_lazy", "_size", "count", "fills", "finishes", "kv_tokens", "ring", "step")

    def __init__(self, block_size: int, key_tokens: int, lazy: bool) -> None:
        """`lazy`: who is `alone` has its keys cached when it stops; it is none of `fills`."""
        self._lazy = lazy
        self._size = block_size
        self._key = key_tokens
        self.step = 0
        """Number of the next step, or of the first one of the span under way."""
        self.count = 0
        self.kv_tokens = 0
        """That they read in step `step`."""
        self.ring: list[dict[Runner, None]] = [{} for _ in range(block_size)]
        """By number modulo the block size: who needs a block in such a step, in order of admission."""
        self.finishes: list[tuple[int, int, Runner]] = []
        """(last step, number of admission, who); a heap, in which those that have left stay until their turn."""
        self.fills: list[tuple[int, int, Runner]] = []
        """(step in which it completes a key, number of admission, who); a heap, as above."""

    def enter(self, sequence: Runner, computed: int, left: int) -> None:
        """A sequence gives `left` tokens from step `step` on, where it has computed `computed` before."""
        step = self.step
        sequence.finish = finish = step + left - 1
        heappush(self.finishes, (finish, sequence.serial, sequence))
        sequence.number = number = (step - computed) % self._size
        self.ring[number][sequence] = None
        self.count += 1
        self.kv_tokens += computed
        request = sequence.request
        if sequence.stored < len(request.keys) and not (self._lazy and request.alone):
            ahead = request.prompt_tokens + request.output_tokens - 1 - (sequence.stored + 1) * self._key
            if ahead >= 0:
                sequence.fill = finish - ahead
                heappush(self.fills, (sequence.fill, sequence.serial, sequence))

    def leave(self, sequence: Runner) -> int:
        """A sequence decodes no longer, from step `step` on; returns how many tokens it still had to give."""
        left = sequence.finish - self.step + 1
        request = sequence.request
        self.count -= 1
        self.kv_tokens -= request.prompt_tokens + request.output_tokens - 1 - left
        del self.ring[sequence.number][sequence]
        sequence.finish = sequence.fill = -1
        return left

    def steps(self) -> int:
        """Steps until the first of them gives its last token, that one included."""
        finishes = self.finishes
        while True:
            finish, serial, sequence = finishes[0]
            if sequence.serial == serial and sequence.finish == finish:
                return finish - self.step + 1
            heappop(finishes)

    def blocks(self, skipped: int, steps: int) -> int:
        """That they need in the steps `skipped .. steps` from now."""
        size = self._size
        ring = self.ring
        first = self.step + skipped
        if steps - skipped == 1:
            return len(ring[first % size])
        cycles, rest = divmod(steps - skipped, size)
        blocks = cycles * self.count
        for number in range(first, first + rest):
            blocks += len(ring[number % size])
        return blocks

    def steps_within(self, room: int, skipped: int, most: int) -> int:
        """How many steps, at most `most`, they can go with `room` blocks, those of the first `skipped` steps apart."""
        size = self._size
        cycles = room // self.count
        steps = skipped + cycles * size
        if steps >= most:
            return most
        room -= cycles * self.count
        while steps < most:
            room -= len(self.ring[(self.step + steps) % size])
            if room < 0:
                break
            steps += 1
        return steps
