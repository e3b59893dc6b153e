"""Which batches were applied lately: the same number with another content means another engine."""

from __future__ import annotations

from array import array

import xxhash

_SIZE = 1024
"""Batches that are remembered."""
_digest = xxhash.xxh3_64_intdigest


class Recent:
    """Digests of the last batches, by sequence number."""

    def __init__(self) -> None:
        self._digests = array("Q", bytes(8 * _SIZE))
        self._next = 0

    def note(self, sequence: int, payload: bytes) -> None:
        """A batch was applied; numbers follow one another."""
        self._digests[sequence % _SIZE] = _digest(payload)
        self._next = sequence + 1

    def is_same(self, sequence: int, payload: bytes) -> bool | None:
        """Whether this is the batch that was applied under its number; None where that is not remembered."""
        if not self._next - _SIZE <= sequence < self._next:
            return None
        known = self._digests[sequence % _SIZE]
        return known == _digest(payload) if known else None

    def clear(self) -> None:
        """Remember nothing."""
        self._digests = array("Q", bytes(8 * _SIZE))
        self._next = 0
