"""How many bytes of a prompt make a token, learned per model from the engine's counts."""

from __future__ import annotations

PRIOR = 4.0
"""Bytes per token before anything is known."""
LEAST, MOST = 1.0, 16.0
"""Bounds of what is believed [bytes/token]."""

_PRIOR_BYTES = 16_384.0
"""Weight of the prior."""
_MEMORY_BYTES = 1_048_576.0
"""Weight beyond which the past fades."""
_HEAVIEST_BYTES = 32_768.0
"""Most that one prompt weighs, so that one odd prompt cannot move the estimate far."""
_MODELS = 1024


class Density:
    """Bytes per token of each model: a fading ratio of sums, so long prompts, which tell more, weigh more."""

    __slots__ = ("_ratios", "_sums")

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        self._ratios: dict[str, float] = {}

    def bytes_per_token(self, model: str) -> float:
        """What is believed of this model, within [1, 16]."""
        return self._ratios.get(model, PRIOR)

    def observe(self, model: str, text_bytes: int, prompt_tokens: int) -> None:
        """A prompt of `text_bytes` was counted as `prompt_tokens` by the engine."""
        if text_bytes <= 0 or prompt_tokens <= 0:
            return
        sums = self._sums.get(model)
        if sums is None:
            sums = (_PRIOR_BYTES, _PRIOR_BYTES / PRIOR)
            if len(self._sums) >= _MODELS:
                oldest = next(iter(self._sums))
                del self._sums[oldest], self._ratios[oldest]
        weight = text_bytes if text_bytes < _HEAVIEST_BYTES else _HEAVIEST_BYTES
        seen, tokens = sums[0] + weight, sums[1] + weight / _bounded(text_bytes / prompt_tokens)
        if seen > _MEMORY_BYTES:
            fade = _MEMORY_BYTES / seen
            seen *= fade
            tokens *= fade
        self._sums[model] = (seen, tokens)
        self._ratios[model] = _bounded(seen / tokens)


def _bounded(ratio: float) -> float:
    if ratio < LEAST:
        return LEAST
    return ratio if ratio < MOST else MOST
