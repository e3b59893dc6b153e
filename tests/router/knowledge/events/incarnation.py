"""An engine model that publishes: every batch since its start, a replay buffer, and the truth after each batch."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kvroute.router.testing.blockkeys import chain
from kvroute.router.testing.kvevents import Batch, encode_batch, wire_event
from kvroute.router.testing.work import Content
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.engine.step import Step
from kvroute.simulator.engine.steptime import from_rates
from kvroute.simulator.engine.stepwise import Engine
from tests.router.knowledge.events.naive import Held, NaiveEngine


class Incarnation:
    """One engine from start to end; another seed gives another hash of every block."""

    def __init__(self, seed: int, *, blocks: int = 12, size: int = 2, buffered: int = 10_000) -> None:
        self.size = size
        self.payloads: list[bytes] = []
        self.stamps: list[float] = []
        self.truths: list[Held] = []
        """What it holds after each batch."""
        self.hits: list[int] = []
        """Blocks found cached, of each request."""
        self._seed = seed
        self._buffered = buffered
        limits = Limits(blocks=blocks, block_size=size, max_num_batched_tokens=max(64, 4 * size))
        self._engine = Engine(limits, from_rates(1e4, 1e2))
        self._naive = NaiveEngine()
        self._now = 0.0

    def run(self, prompt: Sequence[int], output: Sequence[int], salt: str | None = None) -> None:
        """Answer one request; its batches are appended."""
        tokens = [*prompt, *output]
        keys = chain(tokens, self.size, str(self._seed), salt)
        content = Content(tokens, len(prompt), keys, 0, "length", salt=salt)
        request = EngineRequest("r", len(prompt), len(output), keys, content=content)
        sequence = self._engine.add(request, self._now)
        while self._engine.running or self._engine.waiting:
            self._now = max(self._now, self._engine.next_event_time())
            for step in self._engine.advance(self._now):
                self._publish(step)
        self.hits.append(sequence.cached_tokens // self.size)

    def reset(self) -> None:
        """Forget the cache; told with the next step."""
        assert self._engine.reset_cache()

    def replay(self, start: int) -> list[tuple[int, bytes]]:
        """What the buffer still has."""
        first = max(start, len(self.payloads) - self._buffered)
        return list(enumerate(self.payloads))[first:]

    def _publish(self, step: Step) -> None:
        if not step.changes:
            return
        events = [wire_event(change, self.size, {}) for change in step.changes]
        stamp = self._seed * 1e6 + len(self.payloads)
        self.stamps.append(stamp)
        self.payloads.append(encode_batch(Batch(stamp, events)))
        for event in msgspec.to_builtins(events):
            self._naive.read(event)
        self.truths.append(self._naive.held())
