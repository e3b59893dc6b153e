"""A load generator that keeps C requests under way, on one replica: what its mean TTFT and TPOT consist of.

With no thinking between requests the order of steps does not depend on how long they take, so both means are sums over
steps that are counted once: any coefficients give the times by one multiplication, and a fit is linear.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np

from kvroute.router.core.steptime import StepTime

Work = tuple[float, float, float, float, float]
"""Steps, and the sums over them of batch, KV tokens read, prefill tokens, attention: what c0..c4 multiply."""


class Loop(msgspec.Struct, frozen=True):
    """How one point was measured."""

    prompt: int
    """Longest prompt [tokens]."""
    output: int
    """Longest answer [tokens]."""
    concurrency: int
    budget: int = 8192
    """`max_num_batched_tokens`."""
    seats: int = 1 << 30
    """`max_num_seqs`, or as many as the cache has room for."""
    spread: float = 1.0
    """Shortest length / longest: lengths are drawn evenly between."""
    rounds: int = 10
    """Requests per unit of concurrency; all of the first round are sent at once."""
    late: int = 1
    """Steps that a request misses between the end of the one before it and its own first."""


class Means(msgspec.Struct, frozen=True):
    """What the two mean latencies of a loop consist of."""

    ttft: Work
    """Of the time from sending to the first token, a request."""
    tpot: Work
    """Of the time between two tokens, the mean over requests of each one's own mean."""

    def seconds(self, step: StepTime) -> tuple[float, float]:
        """Mean TTFT without ingress, and mean TPOT [s]."""
        return _dot(step, self.ttft), _dot(step, self.tpot)


def means(loop: Loop, rng: np.random.Generator) -> Means:
    """Run the loop and average; `rng` draws the lengths."""
    return _Run(loop, rng).run()


def _dot(step: StepTime, work: Work) -> float:
    return math.fsum(c * w for c, w in zip((step.c0, step.c1, step.c2, step.c3, step.c4), work, strict=True))


class _One:
    """One request on its way."""

    __slots__ = ("computed", "first", "output", "prompt", "sent")

    def __init__(self, prompt: int, output: int, sent: Work) -> None:
        self.prompt = prompt
        self.output = output
        self.computed = 0
        self.sent = sent
        self.first = sent


class _Run:
    """The replica's scheduler for requests that share nothing and always fit: decodes, then prefill chunks."""

    def __init__(self, loop: Loop, rng: np.random.Generator) -> None:
        self.loop = loop
        count = loop.concurrency * loop.rounds
        self.lengths = list(
            zip(_draw(loop.prompt, loop, count, rng), _draw(loop.output, loop, count, rng), strict=True)
        )
        self.lengths.reverse()
        self.done: Work = (0.0, 0.0, 0.0, 0.0, 0.0)
        self.steps = 0
        self.waiting: deque[tuple[int, _One]] = deque()
        self.partial: _One | None = None
        """A prompt of which a part is computed."""
        self.busy = False
        """Whether there is one as the step begins."""
        self.ends: list[tuple[int, int, _One]] = []
        self.kv = 0
        self.entered = 0
        self.ttft: list[Work] = []
        self.tpot: list[Work] = []

    def run(self) -> Means:
        for _ in range(self.loop.concurrency):
            self._send(0)
        while self.waiting or self.partial or self.ends:
            self.busy = self.partial is not None
            if self.busy or self._open():
                self._mixed()
            else:
                self._decode()
        return Means(_mean(self.ttft), _mean(self.tpot))

    def _open(self) -> bool:
        """Whether the first in the queue may enter the step that begins now; an idle replica begins one for it."""
        if not self.waiting or len(self.ends) >= self.loop.seats:
            return False
        return self.waiting[0][0] <= self.steps or not (self.ends or self.busy)

    def _send(self, late: int) -> None:
        if self.lengths:
            prompt, output = self.lengths.pop()
            self.waiting.append((self.steps + late, _One(prompt, output, self.done)))

    def _mixed(self) -> None:
        """One step with prefill in it."""
        decoding = len(self.ends)
        budget = self.loop.budget - decoding
        chunks: list[tuple[_One, int]] = []
        one, self.partial = self.partial, None
        while budget > 0:
            if one is None:
                if decoding + len(chunks) >= self.loop.seats or not self._open():
                    break
                one = self.waiting.popleft()[1]
            count = min(one.prompt - one.computed, budget)
            chunks.append((one, count))
            budget -= count
            one = None
        prefill = sum(count for _, count in chunks)
        attention = sum(count * (one.computed + 0.5 * count) for one, count in chunks)
        self._advance(1, decoding + len(chunks), self.kv, prefill, attention)
        self.kv += decoding
        for one, count in chunks:
            one.computed += count
            if one.computed < one.prompt:
                self.partial = one
            else:
                self._begin(one)
        self._finish()

    def _decode(self) -> None:
        """All steps until a request ends, or one that was sent is due."""
        batch = len(self.ends)
        count = self.ends[0][0] - self.steps
        if self.waiting and batch < self.loop.seats:
            count = min(count, self.waiting[0][0] - self.steps)
        self._advance(count, count * batch, count * self.kv + batch * count * (count - 1) / 2, 0, 0)
        self.kv += count * batch
        self._finish()

    def _begin(self, one: _One) -> None:
        one.first = self.done
        self.ttft.append(_minus(self.done, one.sent))
        self.kv += one.prompt
        self.entered += 1
        heapq.heappush(self.ends, (self.steps + one.output - 1, self.entered, one))

    def _finish(self) -> None:
        while self.ends and self.ends[0][0] <= self.steps:
            one = heapq.heappop(self.ends)[2]
            self.kv -= one.prompt + one.output - 1
            if one.output > 1:
                self.tpot.append(_over(_minus(self.done, one.first), one.output - 1))
            self._send(self.loop.late)

    def _advance(self, steps: int, batch: float, kv: float, prefill: float, attention: float) -> None:
        a, b, c, d, e = self.done
        self.done = (a + steps, b + batch, c + kv, d + prefill, e + attention)
        self.steps += steps


def _draw(longest: int, loop: Loop, count: int, rng: np.random.Generator) -> list[int]:
    return [int(n) for n in rng.integers(max(1, int(longest * loop.spread)), longest + 1, count)]


def _minus(one: Work, other: Work) -> Work:
    return (one[0] - other[0], one[1] - other[1], one[2] - other[2], one[3] - other[3], one[4] - other[4])


def _over(work: Work, count: float) -> Work:
    return (work[0] / count, work[1] / count, work[2] / count, work[3] / count, work[4] / count)


def _mean(works: Sequence[Work]) -> Work:
    columns = [math.fsum(column) / max(1, len(works)) for column in zip(*works, strict=True)] or [0.0] * 5
    return (columns[0], columns[1], columns[2], columns[3], columns[4])
