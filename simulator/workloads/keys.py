"""How keys are given out: which can come again, and which stand in one prompt alone."""

from __future__ import annotations

UNIQUE = 1 << 62
"""Keys from here on are in one prompt only and never come again; keys are below 2**63. So nobody need remember them."""
KEYS_EACH = 1 << 57
"""Keys that each part of a mixture has to itself: 32 parts have room below `UNIQUE`, and as many above."""
_MASK = (1 << 64) - 1
_SPREAD = 0x9E3779B97F4A7C15
"""2**64 / golden ratio: spreads counted keys evenly over 64 bits (Fibonacci hashing, Knuth vol. 3, 6.4)."""


def anchor(key: int) -> int:
    """The router's hash of a prompt's beginning, for a prompt whose first key is this one."""
    return key * _SPREAD & _MASK
