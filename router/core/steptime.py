"""The step-time model of one replica kind, as the live estimate uses it: what a prefill token costs at a given load."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

Cost: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=60)]
"""Seconds that a step, or a prefill token, takes: never nothing, or every prompt would be free."""
Extra: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=60)]
"""Seconds that may be nothing."""


class StepTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of one engine step: c0 + c1*batch + c2*kv_tokens + c3*prefill_tokens + c4*sum(n*(ctx + n/2)), and
    c5*kv_tokens more in a step that also prefills.

    The default is an 8B model on an H100. Live replicas need no better: a learned factor per replica multiplies it.
    """

    c0: Cost = 6e-3
    """Seconds a step."""
    c1: Extra = 20e-6
    """Seconds per sequence in the batch."""
    c2: Extra = 24e-9
    """Seconds per KV token read by decodes."""
    c3: Cost = 22e-6
    """Seconds per prefill token."""
    c4: Extra = 1e-9
    """Seconds per (token x token) of attention."""
    c5: Extra = 0.0
    """Seconds more per KV token read by decodes, in a step that also prefills."""
    budget: Annotated[int, msgspec.Meta(gt=0)] = 2048
    """`max_num_batched_tokens`."""

    def seconds_per_token(self, decoding: float, kv_tokens: float) -> float:
        """Prefill seconds per uncached token while `decoding` sequences hold `kv_tokens`: they share each step."""
        chunk = self.budget - decoding
        if chunk < 1.0:
            chunk = 1.0
        return self.c3 + (self.c0 + self.c1 * (decoding + 1.0) + (self.c2 + self.c5) * kv_tokens) / chunk

    def decode_step(self, decoding: float, kv_tokens: float) -> float:
        """Seconds of a step that only decodes."""
        return self.c0 + self.c1 * decoding + self.c2 * kv_tokens
