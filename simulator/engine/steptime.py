"""How long one engine step takes, and the model that two stated rates describe."""

from __future__ import annotations

from kvroute.router.core.steptime import StepTime


def step_seconds(model: StepTime, batch: int, kv_tokens: float, prefill_tokens: float, attention: float) -> float:
    """Seconds of one step: c0 + c1*batch + c2*kv_tokens + c3*prefill_tokens + c4*attention, and c5*kv_tokens where it
    prefills: decodes read their KV more slowly next to a prefill.

    Args:
        model: the coefficients.
        batch: sequences in the step.
        kv_tokens: KV tokens that the step's decodes read [tokens].
        prefill_tokens: prompt tokens it computes [tokens].
        attention: sum of n*(ctx + n/2) over its prefill chunks of n tokens behind ctx computed ones [tokens^2].
    """
    read = model.c2 + model.c5 if prefill_tokens else model.c2
    return model.c0 + model.c1 * batch + read * kv_tokens + model.c3 * prefill_tokens + model.c4 * attention


def from_rates(prefill_rate: float, decode_rate: float, *, budget: int = 2048) -> StepTime:
    """The simplest model that gives both rates: every step takes 1/decode_rate, plus 1/prefill_rate a prompt token.

    Args:
        prefill_rate: prompt tokens a second beyond the step's constant [tokens/s].
        decode_rate: tokens a second of one sequence while nothing prefills [tokens/s].
        budget: `max_num_batched_tokens`.
    """
    return StepTime(c0=1.0 / decode_rate, c1=0.0, c2=0.0, c3=1.0 / prefill_rate, c4=0.0, budget=budget)
