"""The text lens: what a prompt shares with others, told from its text alone, without a tokenizer."""

from __future__ import annotations

import msgspec
import xxhash

from kvroute.router.core import blocks
from kvroute.router.knowledge import canonical
from kvroute.router.knowledge.boundaries import Boundaries
from kvroute.router.knowledge.density import Density
from kvroute.router.parse import Body

_hash = xxhash.xxh3_64_intdigest

BLOCK_BYTES = 512
"""Default size of a block [bytes]: about 128 tokens, eight blocks of the engine."""


class Prompt(msgspec.Struct, gc=False):
    """What routing knows of a prompt."""

    keys: list[int]
    """Chained keys of the full blocks of the first prompt."""
    tokens: int
    """Estimated tokens of all prompts together; exact where they are given as token ids."""
    block_tokens: float
    """What one block stands for [tokens]."""
    anchor: int
    """Hash of the adapter and the first 100 characters that the user wrote."""
    text_bytes: int
    """To be told to `observe`; 0 where the engine's count is not of this text alone: token ids, media, a prompt that
    begins with a stored response [bytes]."""


class TextLens:
    """Reads prompts into chained block keys, and learns how many bytes make a token."""

    __slots__ = ("_block_bytes", "_density", "boundaries")

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        self._block_bytes = block_bytes
        self._density = Density()
        self.boundaries = Boundaries(block_bytes)

    def read(self, body: Body, model: str, adapter: str | None) -> Prompt:
        """Key one body's prompt. Never raises: what the engine would refuse is keyed up to there."""
        reading = canonical.read(body)
        pieces = reading.pieces
        root = blocks.root(model, adapter, body.cache_salt)
        keys = self.boundaries.keys(root, pieces, sum(map(len, pieces))) if pieces else []
        anchor = reading.anchor if adapter is None else adapter.encode("utf-8", "replace") + b"\x00" + reading.anchor
        tokens, block_tokens = self._tokens(model, reading)
        text_bytes = reading.text_bytes if reading.whole else 0
        return Prompt(keys, tokens, block_tokens, _hash(anchor), text_bytes)

    def _tokens(self, model: str, reading: canonical.Reading) -> tuple[int, float]:
        """Tokens of all prompts, and of one block of the first."""
        if reading.ids:
            block = self._block_bytes / canonical.ID_BYTES
            return max(1, reading.ids + int(reading.text_bytes / self.bytes_per_token(model))), block
        density = self._density.bytes_per_token(model)
        return int(reading.text_bytes / density) or 1, self._block_bytes / density

    def observe(self, model: str, text_bytes: int, prompt_tokens: int) -> None:
        """The engine counted `prompt_tokens` for a prompt whose `text_bytes` this lens told."""
        self._density.observe(model, text_bytes, prompt_tokens)

    def bytes_per_token(self, model: str) -> float:
        """What is believed of this model, learned from `observe` [bytes/token]."""
        return self._density.bytes_per_token(model)
