"""The stand-in engine's own block hashes: a chain over token ids, unrelated to the router's."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import xxhash


def chain(tokens: Sequence[int], block_size: int, lora: str | None = None, salt: str | None = None) -> list[int]:
    """One 64-bit key per full block of `tokens`; each depends on everything before it, on adapter and salt."""
    data = memoryview(array("I", tokens).tobytes())
    parent = xxhash.xxh3_64_intdigest(f"{lora or ''}\0{salt or ''}".encode())
    width = block_size * 4
    keys = []
    for start in range(0, len(data) - width + 1, width):
        parent = xxhash.xxh3_64_intdigest(data[start : start + width], seed=parent)
        keys.append(parent)
    return keys
