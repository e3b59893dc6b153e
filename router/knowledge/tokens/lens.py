"""The token lens: a prompt's blocks exactly as the engine cuts them, from the tokens that it will see."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Sequence
from typing import Protocol

from kvroute.router.core import blocks
from kvroute.router.knowledge import canonical
from kvroute.router.knowledge.text import Prompt
from kvroute.router.knowledge.tokens import rendered as rendering
from kvroute.router.knowledge.tokens.anchor import anchor
from kvroute.router.knowledge.tokens.encoding import TINY, Counts, Encoding, Waiting
from kvroute.router.knowledge.tokens.keys import Found, TokenKeys
from kvroute.router.knowledge.tokens.reading import Hashed, Reading, certain, keeps_last
from kvroute.router.knowledge.tokens.rendered import Rendered
from kvroute.router.knowledge.tokens.segments import Piece, Segments, TooMany, pack_slowly
from kvroute.router.knowledge.tokens.weight import Size, heavy, size
from kvroute.router.parse import Body

BLOCK_TOKENS = 16
"""vLLM's default block [tokens]."""

MOST_TOKENS = 2 << 20
"""More than any context takes: what stands behind has no keys."""
MOST_CHARACTERS = 16 << 20
"""And characters of a text, about as much."""
MOST_PIECES = 2000
"""A text with more pieces than this does not keep the loop."""

_FOR_HASHING = 0.25
"""Of the time that a prompt may take, for what comes after encoding."""

_WITH_SPECIAL = 1
"""Turns a root into that of texts which the post-processor puts tokens around."""


class Renders(Protocol):
    """What turns a body into what the engine tokenises. Never raises."""

    def render(self, body: Body) -> Rendered:
        """For any thread."""

    def note(self, rendered: Rendered) -> None:
        """Told on the loop what became of a body."""


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
        self.context_tokens: int | None = None
        """The model's longest context, where it is known: what `truncate_prompt_tokens: -1` means. Else all is taken to
        fit, and prompts that do not have keys which the engine has not."""
        self._renderer = renderer

    def close(self) -> None:
        """Let the encoding threads end."""
        self.encoding.close()

    def read(self, body: Body, model: str, adapter: str | None) -> Prompt | Awaitable[Prompt]:
        """Key one body's prompt: at once where its tokens are known or few, else as soon as a thread has encoded them.

        Never raises, and never waits longer than `Encoding.most_seconds`: what is not known by then is left out. An
        awaitable that is not awaited does no harm beyond Python's own warning.
        """
        if heavy(body.fields):
            return self._apart(body, adapter)
        try:
            rendered, reading = self._prepared(body, adapter, MOST_PIECES)
        except TooMany:
            return self._apart(body, adapter)
        self._renderer.note(rendered)
        if isinstance(reading, Prompt):
            self.counts.known += 1
            return reading
        if reading.characters > TINY:
            waiting = self.encoding.start(reading.text, reading.missing)
            if waiting.seconds > 0:
                return self._later(reading, waiting)
            self.counts.given_up += 1
        else:
            self.encoding.now(reading.text, reading.missing)
            self.counts.known += 1
        return self._noted(self._hashed(reading))

    def _prepared(self, body: Body, adapter: str | None, most: int | None) -> tuple[Rendered, Reading | Prompt]:
        """All that is to be done before encoding; of token ids, all. For any thread, as is `_hashed`.

        Raises:
            TooMany: the text has more than `most` pieces.
        """
        rendered = self._renderer.render(body)
        root = blocks.token_root(adapter, body.cache_salt, self.block_tokens)
        named = anchor(body, adapter)
        others = self._count(rendered.others) if rendered.others else 0
        if rendered.ids is not None:
            return rendered, self._given(rendered, rendered.ids, root, named, others)
        least = 0
        if not rendered.whole:
            least = self._estimate(canonical.read(body).text_bytes)
        elif len(rendered.text) > MOST_CHARACTERS:
            least = self._estimate(len(rendered.text))
            rendered.text, rendered.whole = rendered.text[:MOST_CHARACTERS], False
            rendered.reason = "longer than any context"
        reading = self._begin(rendered, root, named, others, most)
        reading.least = least
        return rendered, reading

    async def _apart(self, body: Body, adapter: str | None) -> Prompt:
        """As `read`, beside the loop, for a prompt that would keep it."""
        encoding, counts = self.encoding, self.counts
        until = time.monotonic() + encoding.most_seconds
        taken = size(body.fields)
        work = taken.nanoseconds
        prepared = await encoding.apart.done(functools.partial(self._prepared, body, adapter, None), work, until)
        if prepared is None:
            return self._unread(body, adapter, taken)
        rendered, reading = prepared
        self._renderer.note(rendered)
        if isinstance(reading, Prompt):
            counts.known += 1
            return reading
        known = not reading.missing
        in_time = known or await self._encoded(reading, until - encoding.most_seconds * _FOR_HASHING)
        hashed = await encoding.apart.done(functools.partial(self._hashed, reading), work, until)
        if hashed is None:
            return self._unread(body, adapter, taken)
        counts.known += known
        counts.encoded += in_time and not known
        counts.given_up += not in_time
        return self._noted(hashed)

    def _unread(self, body: Body, adapter: str | None, taken: Size) -> Prompt:
        """A prompt of which nothing is known in time but its size."""
        self.counts.given_up += 1
        self.counts.partial += 1
        return Prompt([], max(1, self._estimate(taken.characters)), float(self.block_tokens), anchor(body, adapter), 0)

    async def _encoded(self, reading: Reading, until: float) -> bool:
        """Whether all missing pieces were encoded in time."""
        if len(reading.missing) > MOST_PIECES:
            return await self.encoding.in_place(reading.text, reading.missing, until)
        waiting = self.encoding.start(reading.text, reading.missing)
        left = until - time.monotonic()
        return waiting.seconds > 0 and left > 0 and await _filled(reading, waiting, min(waiting.seconds, left))

    def _begin(self, rendered: Rendered, root: int, named: int, others: int, most: int | None) -> Reading:
        """Find what is known of a text, and cut the rest."""
        text = rendered.text
        segments = self.segments
        special = rendered.add_special_tokens
        around = segments.around(special)
        if around is None or keeps_last(rendered):
            found = Found([], None)
        else:
            found = self.keys.find(root ^ _WITH_SPECIAL if special else root, text)
        pieces = segments.pieces(text, found.at, special, most)
        around = around or (b"", b"")
        if not rendered.whole:
            pieces = certain(pieces, segments.sure(text, len(text)))
            around = (around[0], b"")
        missing = [piece for piece in pieces if piece.packed is None]
        length = sum([piece.end - piece.start for piece in missing])
        return Reading(rendered, text, root, found, pieces, missing, length, around, named, others, 0)

    async def _later(self, reading: Reading, waiting: Waiting) -> Prompt:
        if await _filled(reading, waiting, waiting.seconds):
            self.counts.encoded += 1
        else:
            self.counts.given_up += 1
        return self._noted(self._hashed(reading))

    def _noted(self, hashed: Hashed) -> Prompt:
        """Keep what was learned."""
        self.keys.learn(hashed.lesson)
        self.counts.partial += hashed.partial
        return hashed.prompt

    def _hashed(self, reading: Reading) -> Hashed:
        """The keys as far as ids are known; tokens are counted, or estimated behind that."""
        rendered, pieces, around = reading.rendered, reading.pieces, reading.around
        length = len(reading.text)
        known = next((i for i, piece in enumerate(pieces) if piece.packed is None), len(pieces))
        if known < len(pieces):
            pieces, around = pieces[:known], (around[0], b"")
        end = pieces[-1].end if pieces else reading.found.at
        complete = end == length and rendered.whole
        if keeps_last(rendered):
            return Hashed(self._last(reading, pieces, around, complete=complete), None, not complete)
        keys, tokens, lesson = self.keys.hashed(reading.root, reading.text, reading.found, pieces, around)
        if end < length:
            tokens += self._estimate(length - end)
        if rendered.truncate is not None:
            keys, tokens = self._cut(keys, tokens, rendered.truncate)
        return Hashed(self._prompt(keys, tokens, reading), lesson, not complete)

    def _cut(self, keys: list[int], tokens: int, truncate: int) -> tuple[list[int], int]:
        """Of a prompt that the engine cuts at its end, or (-1) to what the model takes, at either end."""
        if 0 <= truncate < tokens:
            return keys[: truncate // self.block_tokens], truncate
        if truncate < 0 and self.context_tokens is not None and tokens > self.context_tokens:
            return [], self.context_tokens
        return keys, tokens

    def _last(self, reading: Reading, pieces: list[Piece], around: tuple[bytes, bytes], *, complete: bool) -> Prompt:
        """A prompt of which the engine keeps the last tokens only: known where all of them are."""
        most = reading.rendered.truncate or 0
        if not complete:
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
        return Prompt(keys, max(1, len(ids) + others), float(self.block_tokens), named, 0)

    def _count(self, others: Sequence[rendering.Prompt]) -> int:
        """Tokens of the further prompts of a list: those given as text are estimated."""
        return sum(self._estimate(len(other)) if isinstance(other, str) else len(other) for other in others)

    def _estimate(self, characters: float) -> int:
        return int(characters / self.encoding.characters_per_token)


async def _filled(reading: Reading, waiting: Waiting, seconds: float) -> bool:
    """Put in what is encoded by then. Whether all is."""
    # Not `gather`: who goes away must not cancel what others wait for.
    _, late = await asyncio.wait(set(waiting.futures.values()), timeout=seconds)
    for piece in reading.missing:
        if piece.key is not None:
            future = waiting.futures[piece.key]
            if future not in late and not future.cancelled() and future.exception() is None:
                piece.packed = future.result()[piece.key]
    return not late


def _packed(ids: Sequence[int]) -> bytes:
    """Token ids as bytes, up to the first that is none, and no more than any context takes."""
    ids = ids[:MOST_TOKENS] if len(ids) > MOST_TOKENS else ids
    try:
        return pack_slowly(ids)
    except (TypeError, OverflowError):
        sound = next(i for i, one in enumerate(ids) if type(one) is not int or not 0 <= one < 1 << 32)
        return pack_slowly(ids[:sound])
