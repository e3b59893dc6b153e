"""What a replica's cache gained and lost, in terms of our own keys: what KV events become, and what routers share."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kvroute.router.core.observed import Observed

Words: TypeAlias = NDArray[np.uint64]
"""Keys or hashes: 64 bits each, shape (n,)."""


class Medium(enum.IntEnum):
    """Where a block's KV lies."""

    GPU = 0
    CPU = 1
    DISK = 2


class Stored(msgspec.Struct, frozen=True):
    """The engine holds `hashes[i]` once more at this medium; it stands for `keys[i]`, our key of the same prefix."""

    medium: int
    hashes: Words
    keys: Words


class Removed(msgspec.Struct, frozen=True):
    """The engine holds each of these hashes once less at this medium."""

    medium: int
    hashes: Words


class Cleared(msgspec.Struct, frozen=True):
    """The engine holds nothing any more, at any medium."""


Change: TypeAlias = Stored | Removed | Cleared


def apply(observed: Observed, row: int, changes: tuple[Change, ...]) -> None:
    """Carry changes out, in order."""
    for change in changes:
        if isinstance(change, Stored):
            observed.store(row, change.medium, change.hashes, change.keys)
        elif isinstance(change, Removed):
            observed.remove(row, change.medium, change.hashes)
        else:
            observed.clear(row)
