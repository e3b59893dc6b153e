"""What a client asked of the stand-in: one exchange of one or several sequences, and the mailbox of its outputs."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeAlias

import msgspec

from kvroute.simulator.engine.sequence import Sequence


class Content(msgspec.Struct, gc=False):
    """What the blocks of one sequence hold, as KV events tell it."""

    tokens: list[int]
    """Prompt and output, known in advance since the stand-in's output is."""
    prompt_tokens: int
    keys: list[int]
    choice: int
    """Its `index` among the reply's choices."""
    finish_reason: str
    """How it ends if nobody aborts it."""
    lora: str | None = None
    salt: str | None = None
    session: str | None = None
    exchange: Exchange | None = None


Piece: TypeAlias = tuple[Content, int, int, bool]
"""(sequence, first output token, output tokens, finished)"""


class Exchange:
    """The outputs of one request's sequences, in the order in which they come."""

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self.rank = 0
        """Which rank runs them."""
        self._pieces: deque[Piece] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._open = 0

    def expect(self, sequence: Sequence) -> None:
        """One more sequence belongs to this exchange."""
        self.sequences.append(sequence)
        self._open += 1

    def put(self, content: Content, first: int, count: int, finished: bool) -> None:
        """An output came."""
        self._pieces.append((content, first, count, finished))
        if finished:
            self._open -= 1
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def take(self) -> list[Piece]:
        """Everything that came since the last call, waiting for it if need be; empty when all has come."""
        while not self._pieces:
            if not self._open:
                return []
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        pieces = list(self._pieces)
        self._pieces.clear()
        return pieces

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the cache."""
        return sum(sequence.cached_tokens for sequence in self.sequences)
