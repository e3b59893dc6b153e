"""How many KV blocks the engine of a recorded run had, where the run does not say.

Four sources, the best first: `num_gpu_blocks`; the engine's own `kv_cache_pct`, against the tokens of the requests
that ran at that second; the tokens that ran when requests were let in that had waited for nothing but room, by their
own stamps; and those that ran at seconds with requests waiting, slots free and no prefill. Otherwise nobody is known to
have lacked room, and the capacity is taken as ample.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.fidelity.measures import percentile
from kvroute.simulator.fidelity.recording import Recording, Tick, Timed
from kvroute.simulator.fidelity.room import filled

BUSY = 0.3
"""Share of the cache in use from which the engine's own figure says how large it is."""
TICKS = 5
"""That must agree."""
FULL = 0.985
"""Share of the cache in use while requests wait for room: what is free is less than the next one needs."""
STARVED = 3
"""Requests, or seconds, that must have waited for nothing but room."""


class Capacity(msgspec.Struct, frozen=True):
    """The limits to rehearse with."""

    limits: Limits
    source: str
    """Where the number of blocks is from, for people."""


def capacity(recording: Recording) -> Capacity:
    """The run's limits, with a number of blocks."""
    if recording.blocks_told:
        return Capacity(recording.limits, "num_gpu_blocks of the run")
    shown = _shown(recording)
    if shown is not None:
        return _capacity(recording, shown, "not told: from kv_cache_pct of the time series")
    full = filled(recording.requests, recording.limits)
    if len(full) >= STARVED:
        most = percentile(full, 0.5)
        return _capacity(recording, most, "not told: by stamps, from the tokens that ran when a wait for room ended")
    starved = _starved(recording)
    if len(starved) >= STARVED:
        most = percentile([_tokens(recording.requests, tick) for tick in starved], 0.5) / FULL
        return _capacity(recording, most, "not told: from the tokens that ran while others waited for room")
    ample = sum(one.prompt_tokens + one.output_tokens + recording.limits.block_size for one in recording.requests)
    seen = "neither stamps nor ticks show" if recording.ticks else "their stamps do not show"
    return _capacity(recording, ample, f"not told: taken as ample; {seen} that requests waited for room alone")


def _capacity(recording: Recording, tokens: float, source: str) -> Capacity:
    size = recording.limits.block_size
    largest = max(one.prompt_tokens + one.output_tokens for one in recording.requests)
    blocks = 2 + max(int(tokens), largest) // size
    return Capacity(msgspec.structs.replace(recording.limits, blocks=blocks), source)


def _shown(recording: Recording) -> float | None:
    """Tokens of the whole cache by the engine's own share of it: the median over busy seconds."""
    found = [
        held / tick.kv_usage
        for tick in recording.ticks
        if tick.kv_usage >= BUSY and (held := _tokens(recording.requests, tick)) > 0.0
    ]
    return percentile(found, 0.5) if len(found) >= TICKS else None


def _starved(recording: Recording) -> Sequence[Tick]:
    """Seconds in which requests waited though slots were free and nothing was prefilled."""
    limit = recording.limits.max_num_seqs
    return [
        tick for tick in recording.ticks if tick.waiting > 0 and tick.running < limit - 1 and tick.prompt_rate == 0.0
    ]


def _tokens(requests: Sequence[Timed], tick: Tick) -> float:
    """KV tokens of the requests that run at that second: of those begun the earliest, for the latest are preempted."""
    begun = sorted(
        ((one.scheduled if one.scheduled is not None else one.first), i)
        for i, one in enumerate(requests)
        if one.last > tick.t
    )
    held = 0.0
    for at, i in begun[: round(tick.running)]:
        one = requests[i]
        if at <= tick.t:
            done = (tick.t - one.first) / (one.last - one.first) if one.last > one.first else 0.0
            held += one.prompt_tokens + max(0.0, done) * one.output_tokens
    return held
