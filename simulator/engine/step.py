"""What one scheduler step brought: outputs, and changes of the cache."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from kvroute.simulator.engine.sequence import Sequence


class Stored(msgspec.Struct, frozen=True):
    """Blocks `first .. first + count` of a sequence are cached from now on."""

    sequence: Sequence
    first: int
    count: int


class Removed(msgspec.Struct, frozen=True):
    """One cached block was evicted."""

    key: int


class Cleared(msgspec.Struct, frozen=True):
    """The whole cache was forgotten."""


Change: TypeAlias = Stored | Removed | Cleared


class Output(msgspec.Struct, frozen=True):
    """A sequence came forward by `tokens` output tokens."""

    sequence: Sequence
    first: int
    """How many it had before."""
    tokens: int
    finished: bool


class Step(msgspec.Struct, frozen=True):
    """What happened between two moments: one scheduler step, or several equal ones taken together."""

    start: float
    end: float
    outputs: list[Output]
    changes: list[Change]
    """In the order in which they happened; visible from `end` on."""
    tokens: int
    """Tokens computed, prompt and output."""
