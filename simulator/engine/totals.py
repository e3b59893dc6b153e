"""What one replica has counted since its start."""

from __future__ import annotations

import msgspec


class Totals(msgspec.Struct):
    """Counters since start."""

    queried_tokens: int = 0
    """Tokens of all sequences when they were first scheduled."""
    hit_tokens: int = 0
    """Those found in the cache."""
    prompt_tokens: int = 0
    """Prompt tokens whose prefill is complete."""
    cached_tokens: int = 0
    """Those of them that came from the cache."""
    generated_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
