"""The stand-in behind its HTTP surface: takes prompts as tokens, runs them, tells events and metrics of each step."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import xxhash

from kvroute.router.testing.blockkeys import chain
from kvroute.router.testing.faults import Faults
from kvroute.router.testing.kept import Kept
from kvroute.router.testing.metrics import Page
from kvroute.router.testing.options import Options
from kvroute.router.testing.rank import Rank
from kvroute.router.testing.tokenizer import Tokenizer
from kvroute.router.testing.work import Content, Exchange
from kvroute.simulator.engine.sequence import EngineRequest

if TYPE_CHECKING:
    from kvroute.router.testing.model_tokenizer import ModelTokenizer


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
    rank: int | None = None
    """Which rank shall run it; None: whichever has least to do."""


class Service:
    """One engine of one or several ranks, and its counters. Lives on the running event loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tokenizer = _tokenizer(options)
        self.faults = Faults()
        self._page = Page()
        self.ranks = [Rank(options, number, self._page) for number in range(options.data_parallel_size)]
        self.kept = Kept()
        self.requests_seen = 0
        """Requests to generating paths, refused ones included."""
        self.aborted = 0
        """Requests whose client went away."""
        self.in_flight = 0
        self.sleep_level = 0

    async def close(self) -> None:
        """Stop the clocks and unbind the event sockets."""
        for rank in self.ranks:
            await rank.close()

    def submit(self, job: Job) -> Exchange:
        """Start a job; what it generates depends on its prompts alone."""
        exchange = Exchange()
        rank = min(self.ranks, key=_idleness) if job.rank is None else self.ranks[job.rank]
        rank.requests += 1
        exchange.rank = rank.number
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
                rank.live.submit(request, exchange)
        return exchange

    def finish(self, exchange: Exchange) -> None:
        """The reply is over, one way or another: what still runs is dropped."""
        rank = self.ranks[exchange.rank]
        if any(sequence.ended == sequence.arrived for sequence in exchange.sequences):
            self.aborted += 1
            rank.metrics.aborted(len(exchange.sequences))
        rank.live.abort(exchange)

    def reset_cache(self) -> bool:
        """Forget the caches; refused where requests run."""
        return all([rank.live.engine.reset_cache() for rank in self.ranks])

    def pause(self) -> None:
        """Hang all requests."""
        for rank in self.ranks:
            rank.live.pause()

    def resume(self) -> None:
        """Let them go on."""
        for rank in self.ranks:
            rank.live.resume()

    @property
    def paused(self) -> bool:
        """Whether requests hang."""
        return any(rank.live.engine.paused for rank in self.ranks)

    def metrics(self) -> bytes:
        """The exposition text, as of now."""
        for rank in self.ranks:
            rank.metrics.refresh(rank.live.engine, self.sleep_level)
        return self._page.render()


def _idleness(rank: Rank) -> tuple[int, int]:
    return rank.load, rank.requests


def _tokenizer(options: Options) -> Tokenizer | ModelTokenizer:
    if options.model_folder is None:
        return Tokenizer()
    from kvroute.router.testing.model_tokenizer import ModelTokenizer  # needs the tokenizer extra

    return ModelTokenizer(Path(options.model_folder))
