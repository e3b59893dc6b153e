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

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def bytes_per_token(self, model: str) -> float:
        """What is believed of this model, within [1, 16]."""
        sums = self._sums.get(model)
        return PRIOR if sums is None else min(MOST, max(LEAST, sums[0] / sums[1]))

    def observe(self, model: str, text_bytes: int, prompt_tokens: int) -> None:
        """A prompt of `text_bytes` was counted as `prompt_tokens` by the engine."""
        if text_bytes <= 0 or prompt_tokens <= 0:
            return
        seen, tokens = self._sums.get(model, (_PRIOR_BYTES, _PRIOR_BYTES / PRIOR))
        ratio = min(MOST, max(LEAST, text_bytes / prompt_tokens))
        weight = min(float(text_bytes), _HEAVIEST_BYTES)
        fade = min(1.0, _MEMORY_BYTES / (seen + weight))
        if model not in self._sums and len(self._sums) >= _MODELS:
            del self._sums[next(iter(self._sums))]
        self._sums[model] = ((seen + weight) * fade, (tokens + weight / ratio) * fade)
