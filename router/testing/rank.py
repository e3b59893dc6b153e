"""One data-parallel rank of a stand-in engine: a scheduler and cache of its own, its events and its metrics."""

from __future__ import annotations

from kvroute.router.testing.kvevents import Publisher, wire_event
from kvroute.router.testing.live import LiveEngine
from kvroute.router.testing.metrics import Metrics, Page
from kvroute.router.testing.options import Options
from kvroute.simulator.engine.step import Step
from kvroute.simulator.engine.steptime import from_rates


class Rank:
    """Lives on the running event loop."""

    def __init__(self, options: Options, number: int, page: Page) -> None:
        self.number = number
        self.requests = 0
        """That it was given so far."""
        self.metrics = Metrics(options, number, page)
        model = from_rates(options.prefill_rate, options.decode_rate, budget=options.max_num_batched_tokens)
        self.live = LiveEngine(options.limits, model, options.speed, self._stepped)
        self.publisher: Publisher | None = None
        if options.events_port is not None:
            self.publisher = Publisher(
                options.host,
                _offset(options.events_port, number),
                None if options.replay_port is None else _offset(options.replay_port, number),
                options.events_topic,
                rank=number,
            )
        self._block_size = options.block_size
        self._lora_ids = {name: index for index, name in enumerate(options.loras, 1)}

    @property
    def load(self) -> int:
        """By which requests are spread over ranks, as vLLM does: waiting ones weigh four times as much."""
        engine = self.live.engine
        return 4 * len(engine.waiting) + len(engine.running)

    async def close(self) -> None:
        """Stop the clock and unbind the event sockets."""
        self.live.close()
        if self.publisher is not None:
            await self.publisher.close()

    def _stepped(self, step: Step) -> None:
        if self.publisher is not None and step.changes:
            self.publisher.publish(wire_event(change, self._block_size, self._lora_ids) for change in step.changes)
        self.metrics.observe(step)


def _offset(port: int, rank: int) -> int:
    """Ports are counted up by rank; 0 is a free one for each."""
    return port + rank if port else 0
