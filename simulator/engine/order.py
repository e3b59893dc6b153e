"""Who comes first where requests have priorities."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable
from typing import TypeVar

from kvroute.simulator.engine.sequence import Sequence

Kind = TypeVar("Kind", bound=Sequence)


def rank(sequence: Sequence) -> tuple[int, float]:
    """Smaller is sooner: by priority, then by arrival."""
    return sequence.request.priority, sequence.arrived


def enter(waiting: deque[Kind], sequence: Kind) -> None:
    """Queue a new sequence by its rank, behind its equals."""
    waiting.insert(bisect_right(waiting, rank(sequence), key=rank), sequence)


def enter_again(waiting: deque[Kind], sequence: Kind) -> None:
    """Queue a preempted sequence by its rank, before its equals."""
    waiting.insert(bisect_left(waiting, rank(sequence), key=rank), sequence)


def last(running: Iterable[Kind]) -> Kind:
    """Whom to preempt: the largest rank, and among equals the one that was admitted last."""
    victim: Kind | None = None
    for sequence in running:
        if victim is None or rank(sequence) >= rank(victim):
            victim = sequence
    assert victim is not None, "somebody runs"
    return victim
