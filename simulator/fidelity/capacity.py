"""How many KV blocks the engine of a recorded run had, where the run does not say."""

from __future__ import annotations

import msgspec

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.fidelity.recording import Recording

GIVEN_UP = "capacity not told: taken as ample, since no request waited while a slot was free"


class Capacity(msgspec.Struct, frozen=True):
    """The limits to rehearse with."""

    limits: Limits
    source: str
    """Where the number of blocks is from, for people."""


def capacity(recording: Recording) -> Capacity:
    """The run's limits, with a number of blocks."""
    limits = recording.limits
    if recording.blocks_told:
        return Capacity(limits, "num_gpu_blocks of the run")
    return Capacity(msgspec.structs.replace(limits, blocks=_ample(recording)), GIVEN_UP)


def _ample(recording: Recording) -> int:
    """Blocks that hold all requests of the run at once."""
    size = recording.limits.block_size
    return 1 + sum(-(-(r.prompt_tokens + r.output_tokens) // size) for r in recording.requests)
