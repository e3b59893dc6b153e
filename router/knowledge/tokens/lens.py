"""The token lens: a prompt's blocks exactly as the engine cuts them, from the tokens that it will see."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Protocol

import msgspec

from kvroute.router.core import blocks
from kvroute.router.knowledge import canonical
from kvroute.router.knowledge.text import Prompt
from kvroute.router.knowledge.tokens import rendered as rendering
from kvroute.router.knowledge.tokens.anchor import anchor
from kvroute.router.knowledge.tokens.encoding import TINY, Counts, Encoding, Waiting
from kvroute.router.knowledge.tokens.keys import Found, TokenKeys
from kvroute.router.knowledge.tokens.rendered import Rendered
from kvroute.router.knowledge.tokens.segments import Piece, Segments
from kvroute.router.parse import Body

BLOCK_TOKENS = 16
"""vLLM's default block [tokens]."""

_WITH_SPECIAL = 1
"""Turns a root into that of texts which the post-processor puts tokens around."""


class Renders(Protocol):
    """What turns a body into what the engine tokenises. Never raises."""

    def render(self, body: Body) -> Rendered: ...


class Reading(msgspec.Struct, gc=False):
    """A prompt on its way: the rest of a text, in pieces, some of whose ids may still be missing."""

    rendered: Rendered
    text: str
    root: int
    found: Found
    pieces: list[Piece]
    around: tuple[bytes, bytes]
    """Packed ids before and behind the text's own."""
    anchor: int
    others: int
    """Tokens of the further prompts."""
    least: int
    """Tokens that the whole body stands for at least, by its length; 0 where the text is whole."""


class TokenLens:
    """Reads prompts of one tokenizer into chained keys of token blocks. Lives on one event loop."""

    def __init__(
        self,
        segments: Segments,
        renderer: Renders,
        block_tokens: int = BLOCK_TOKENS,
        encoding: Encoding | None = None,
    ) -> None:
        self.block_tokens = block_tokens
        self.segments = segments
        self.keys = TokenKeys(segments, block_tokens)
        self.encoding = encoding or Encoding(segments)
        self.counts = Counts()
        self._renderer = renderer

    def close(self) -> None:
        """Let the encoding threads end."""
        self.encoding.close()

    def read(self, body: Body, model: str, adapter: str | None) -> Prompt | Awaitable[Prompt]:
        """Key one body's prompt: at once where its tokens are known or few, else as soon as a thread has encoded them.

        Never raises, and never waits longer than `Encoding.most_seconds`: what is not known by then is left out. An
        awaitable that is not awaited does no harm beyond Python's own warning.
        """
        rendered = self._renderer.render(body)
        root = blocks.token_root(adapter, body.cache_salt, self.block_tokens)
        named = anchor(body, adapter)
        others = self._count(rendered.others) if rendered.others else 0
        if rendered.ids is not None:
            return self._given(rendered, rendered.ids, root, named, others)
        reading = self._begin(rendered, root, named, others)
        if not rendered.whole:
            reading.least = self._estimate(canonical.read(body).text_bytes)
        missing = sum([piece.end - piece.start for piece in reading.pieces if piece.packed is None])
        if missing > TINY:
            waiting = self.encoding.start(reading.text, reading.pieces)
            if waiting.seconds > 0:
                return self._later(reading, waiting)
            self.counts.given_up += 1
            return self._finish(reading)
        if missing:
            self.encoding.now(reading.text, reading.pieces)
        self.counts.known += 1
        return self._finish(reading)

    def _begin(self, rendered: Rendered, root: int, named: int, others: int) -> Reading:
        """Find what is known of a text, and cut the rest."""
        text = rendered.text
        segments = self.segments
        special = rendered.add_special_tokens
        around = segments.around(special)
        if around is None or _keeps_last(rendered):
            found = Found([], None)
        else:
            found = self.keys.find(root ^ _WITH_SPECIAL if special else root, text)
        pieces = segments.pieces(text, found.at, special)
        around = around or (b"", b"")
        if not rendered.whole:
            pieces = _certain(pieces, segments.sure(text, len(text)))
            around = (around[0], b"")
        return Reading(rendered, text, root, found, pieces, around, named, others, 0)

    async def _later(self, reading: Reading, waiting: Waiting) -> Prompt:
        # Not `gather`: who goes away must not cancel what others wait for.
        _, late = await asyncio.wait(set(waiting.futures.values()), timeout=waiting.seconds)
        for piece in reading.pieces:
            if piece.packed is None and piece.key is not None:
                future = waiting.futures[piece.key]
                if future not in late and not future.cancelled() and future.exception() is None:
                    piece.packed = future.result()[piece.key]
        if late:
            self.counts.given_up += 1
        else:
            self.counts.encoded += 1
        return self._finish(reading)

    def _finish(self, reading: Reading) -> Prompt:
        """The keys as far as ids are known; tokens are counted, or estimated behind that."""
        rendered, pieces, around = reading.rendered, reading.pieces, reading.around
        length = len(reading.text)
        known = next((i for i, piece in enumerate(pieces) if piece.packed is None), len(pieces))
        if known < len(pieces):
            pieces, around = pieces[:known], (around[0], b"")
        end = pieces[-1].end if pieces else reading.found.at
        if _keeps_last(rendered):
            return self._last(reading, pieces, around, complete=end == length and rendered.whole)
        keys, tokens = self.keys.keys(reading.root, reading.text, reading.found, pieces, around)
        if end < length:
            tokens += self._estimate(length - end)
        if end < length or not rendered.whole:
            self.counts.partial += 1
        if rendered.truncate is not None and 0 <= rendered.truncate < tokens:
            tokens = rendered.truncate
            keys = keys[: tokens // self.block_tokens]
        return self._prompt(keys, tokens, reading)

    def _last(self, reading: Reading, pieces: list[Piece], around: tuple[bytes, bytes], *, complete: bool) -> Prompt:
        """A prompt of which the engine keeps the last tokens only: known where all of them are."""
        most = reading.rendered.truncate or 0
        if not complete:
            self.counts.partial += 1
            return self._prompt([], min(most, self._estimate(len(reading.text))), reading)
        data = b"".join([piece.packed or b"" for piece in pieces])
        before, behind = around
        if reading.rendered.truncation_side is not None:
            before, data, behind = b"", before + data + behind, b""
        room = most - (len(before) + len(behind)) // blocks.TOKEN_BYTES
        if room < 0:  # the engine's tokenizer refuses that
            return self._prompt([], most, reading)
        data = before + data[max(0, len(data) - room * blocks.TOKEN_BYTES) :] + behind
        keys = blocks.extend(reading.root, data, self.block_tokens * blocks.TOKEN_BYTES)
        return self._prompt(keys, len(data) // blocks.TOKEN_BYTES, reading)

    def _prompt(self, keys: list[int], tokens: int, reading: Reading) -> Prompt:
        return Prompt(keys, max(1, tokens + reading.others, reading.least), float(self.block_tokens), reading.anchor, 0)

    def _given(self, rendered: Rendered, ids: Sequence[int], root: int, named: int, others: int) -> Prompt:
        """A prompt given as token ids."""
        most = rendered.truncate
        if most is not None and 0 <= most < len(ids):
            ids = ids[:most] if rendered.truncation_side == "right" else ids[len(ids) - most :]
        keys = blocks.extend(root, _packed(ids), self.block_tokens * blocks.TOKEN_BYTES)
        self.counts.known += 1
        return Prompt(keys, max(1, len(ids) + others), float(self.block_tokens), named, 0)

    def _count(self, others: Sequence[rendering.Prompt]) -> int:
        """Tokens of the further prompts of a list: those given as text are estimated."""
        return sum(self._estimate(len(other)) if isinstance(other, str) else len(other) for other in others)

    def _estimate(self, characters: int) -> int:
        return int(characters / self.encoding.characters_per_token)


def _keeps_last(rendered: Rendered) -> bool:
    """The engine cuts the prompt's beginning off, so that its blocks begin anywhere."""
    return rendered.truncate is not None and rendered.truncate >= 0 and rendered.truncation_side != "right"


def _certain(pieces: list[Piece], sure: int) -> list[Piece]:
    """The pieces up to the last cut that holds whatever follows."""
    for index in range(len(pieces), 0, -1):
        piece = pieces[index - 1]
        if piece.key is None and piece.start < sure:
            return pieces[:index]
    return []


def _packed(ids: Sequence[int]) -> bytes:
    """Token ids as bytes, up to the first that is none."""
    try:
        return blocks.pack(ids)
    except (TypeError, OverflowError):
        sound = next(i for i, one in enumerate(ids) if type(one) is not int or not 0 <= one < 1 << 32)
        return blocks.pack(ids[:sound])
