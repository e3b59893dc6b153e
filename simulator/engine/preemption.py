"""A step for which there is not room enough: blocks one by one, at the cost of those that come last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvroute.simulator.engine import order
from kvroute.simulator.engine.runner import Runner

if TYPE_CHECKING:
    from kvroute.simulator.engine.batch import Batch


def squeeze(batch: Batch, now: float, chunk: int, fresh: int) -> int:
    """Blocks for the running, first come first served; returns the tokens that the incomplete prefill computes.

    `chunk`, `fresh`: the tokens that it would compute, and the blocks that they need.
    """
    decodes = batch.decodes
    cache = batch.cache
    for sequence in list(decodes.ring[decodes.step % batch.limits.block_size]):
        if sequence.serial >= 0 and batch.watch:
            batch.flush(decodes.step, sequence.serial)
        while sequence.serial >= 0 and cache.free_blocks < 1:
            batch.preempt(next(reversed(batch.running)), now, 0)
        if sequence.serial >= 0:
            batch.take(1)
    if batch.partial is not None and fresh > cache.free_blocks:
        batch.preempt(batch.partial, now, 0)
    return chunk if batch.partial is not None else 0


def squeeze_ranked(batch: Batch, now: float) -> int:
    """The same at the cost of the largest rank, whose tokens may have been planned already."""
    decodes = batch.decodes
    number = decodes.step % batch.limits.block_size
    sequences = list(batch.running)
    planned = chunk = 0
    for index, sequence in enumerate(sequences):
        serial = sequence.serial
        if serial < 0:
            continue
        batch.flush(decodes.step, serial)
        fresh = int(sequence.number == number)
        if sequence is batch.partial:
            chunk = min(sequence.known - sequence.computed, batch.limits.max_num_batched_tokens - planned)
            fresh = -(-(sequence.computed + chunk) // batch.limits.block_size) - sequence.held
        while fresh > batch.cache.free_blocks:
            victim = order.last(batch.running)
            if victim is sequence:
                _pass_over(batch, sequences[index + 1 :])
                batch.preempt(victim, now, 0)
                return 0
            before = int(victim.serial < serial)
            planned -= before
            batch.preempt(victim, now, before)
        if fresh and sequence is not batch.partial:
            batch.take(1)
        planned += 1
    return chunk if batch.partial is not None else 0


def _pass_over(batch: Batch, sequences: Iterable[Runner]) -> None:
    """These have no part in the next step."""
    for sequence in sequences:
        if sequence.finish >= 0:
            sequence.left = batch.decodes.leave(sequence)
            batch.passed.append(sequence)
