"""The stand-in behind its HTTP surface: takes prompts as tokens, runs them, tells events and metrics of each step."""

from __future__ import annotations

from array import array

import msgspec
import xxhash

from kvroute.router.testing.blockkeys import chain
from kvroute.router.testing.faults import Faults
from kvroute.router.testing.kept import Kept
from kvroute.router.testing.kvevents import Publisher, wire_event
from kvroute.router.testing.live import LiveEngine
from kvroute.router.testing.metrics import Metrics
from kvroute.router.testing.options import Options
from kvroute.router.testing.tokenizer import Tokenizer
from kvroute.router.testing.work import Content, Exchange
from kvroute.simulator.sequence import EngineRequest
from kvroute.simulator.step import Step
from kvroute.simulator.steptime import from_rates


class Job(msgspec.Struct, gc=False, kw_only=True):
    """One request, ready to run."""

    id: str
    prompts: list[list[int]]
    output_tokens: int
    """Of each sequence."""
    finish_reason: str
    choices: int = 1
    """Replies per prompt (`n`)."""
    lora: str | None = None
    salt: str | None = None
    session: str | None = None
    report_full: bool = False


class Service:
    """One engine with its cache, clock, events and counters. Lives on the running event loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tokenizer = Tokenizer()
        self.faults = Faults()
        self.metrics = Metrics(options)
        model = from_rates(options.prefill_rate, options.decode_rate, budget=options.max_num_batched_tokens)
        self.live = LiveEngine(options.limits, model, options.speed, self._stepped)
        self.publisher: Publisher | None = None
        if options.events_port is not None:
            self.publisher = Publisher(options.host, options.events_port, options.replay_port, options.events_topic)
        self.kept = Kept()
        self.requests_seen = 0
        """Requests to generating paths, refused ones included."""
        self.aborted = 0
        """Requests whose client went away."""
        self.in_flight = 0
        self.sleep_level = 0
        self._lora_ids = {name: index for index, name in enumerate(options.loras, 1)}

    async def close(self) -> None:
        """Stop the clock and unbind the event sockets."""
        self.live.close()
        if self.publisher is not None:
            await self.publisher.close()

    def submit(self, job: Job) -> Exchange:
        """Start a job; what it generates depends on its prompts alone."""
        exchange = Exchange()
        for index, prompt in enumerate(job.prompts):
            seed = xxhash.xxh3_64_intdigest(array("I", prompt).tobytes())
            for copy in range(job.choices):
                choice = index * job.choices + copy
                tokens = prompt + self.tokenizer.generate(seed + copy, job.output_tokens)
                keys = chain(tokens, self.options.block_size, job.lora, job.salt)
                content = Content(
                    tokens=tokens,
                    prompt_tokens=len(prompt),
                    keys=keys,
                    choice=choice,
                    finish_reason=job.finish_reason,
                    lora=job.lora,
                    salt=job.salt,
                    session=job.session,
                    exchange=exchange,
                )
                request = EngineRequest(
                    id=f"{job.id}-{choice}",
                    prompt_tokens=len(prompt),
                    output_tokens=job.output_tokens,
                    keys=keys,
                    report_full=job.report_full,
                    content=content,
                )
                self.live.submit(request, exchange)
        return exchange

    def finish(self, exchange: Exchange) -> None:
        """The reply is over, one way or another: what still runs is dropped."""
        if any(sequence.ended == sequence.arrived for sequence in exchange.sequences):
            self.aborted += 1
            self.metrics.aborted(len(exchange.sequences))
        self.live.abort(exchange)

    def reset_cache(self) -> bool:
        """Forget the cache; refused while requests run."""
        return self.live.engine.reset_cache()

    def _stepped(self, step: Step) -> None:
        if self.publisher is not None and step.changes:
            size = self.options.block_size
            self.publisher.publish(wire_event(change, size, self._lora_ids) for change in step.changes)
        self.metrics.observe(step)
