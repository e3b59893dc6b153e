"""Encoding off the event loop: a few threads, each stretch once at a time, never more than can be waited for.

Everything here but the encoding itself runs on the loop, so that nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import msgspec

from kvroute.router.core import blocks
from kvroute.router.knowledge.tokens.segments import Key, Piece, Refused, Segments

WORKERS = 2
MOST_SECONDS = 1.0
"""No prompt waits longer for its tokens: it is routed by what is known of it."""
TINY = 256
"""Characters that are encoded at once: about 60 microseconds, what a thread's answer takes."""

_PRIOR_RATE = 2e6
"""Characters per second of one thread before anything is known; a byte-level tokenizer encodes 2 to 5 million."""
_PRIOR_CHARACTERS = 4.0
"""Characters per token before anything is known."""
_FADE = 0.9
_TELLING = 2048
"""Texts of fewer characters tell more about the thread than about the tokenizer."""

Results: TypeAlias = dict[Key, bytes | None]
"""Packed ids; None: the tokenizer refuses the stretch."""


class Encoding:
    """The threads of one tokenizer, and what they are at. Made and used on one event loop."""

    def __init__(self, segments: Segments, workers: int = WORKERS, most_seconds: float = MOST_SECONDS) -> None:
        self._segments = segments
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, "kvroute-encode")
        self.most_seconds = most_seconds
        self._running: dict[Key, asyncio.Future[Results]] = {}
        self.backlog = 0
        """Characters handed to the threads and not encoded yet."""
        self.rate = _PRIOR_RATE
        """Characters per second of one thread, as seen."""
        self.characters_per_token = _PRIOR_CHARACTERS
        """As seen; estimates texts that are not encoded."""

    def close(self) -> None:
        """Let the threads end; what they have not begun is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def too_much(self, characters: int) -> bool:
        """Whether so many more would take longer than a prompt waits, by what is seen of the threads' speed."""
        return self.backlog / self._workers + characters > self.rate * self.most_seconds

    def now(self, text: str, pieces: Iterable[Piece]) -> None:
        """Encode what is missing here and now."""
        for piece in pieces:
            if piece.packed is None and piece.key is not None:
                piece.packed = self._segments.known(piece.key)  # the same stretch may stand in it twice
                if piece.packed is None:
                    self._set(piece, self._encode(text[piece.start : piece.end], piece.key))

    def _set(self, piece: Piece, packed: bytes | None) -> None:
        piece.packed = packed
        if packed is not None and piece.key is not None:
            self._segments.keep(piece.key, packed)

    def start(self, text: str, pieces: Sequence[Piece]) -> dict[Key, asyncio.Future[Results]]:
        """Have the missing pieces encoded: per key the future in whose results it will be.

        The futures belong to all who wait for the same stretch: look at them with `asyncio.wait`, never cancel them.
        """
        running = self._running
        asked = {piece.key: text[piece.start : piece.end] for piece in pieces if piece.packed is None and piece.key}
        new = {key: stretch for key, stretch in asked.items() if key not in running}
        if new:
            characters = sum(map(len, new.values()))
            self.backlog += characters
            future = asyncio.get_running_loop().run_in_executor(self._pool, self._all, new)
            running.update(dict.fromkeys(new, future))
            future.add_done_callback(lambda done: self._done(new, characters, done))
        return {key: running[key] for key in asked}

    def _all(self, stretches: dict[Key, str]) -> Results:
        """In a thread: encode them, and learn how long that takes."""
        begun = time.thread_time()
        found = {key: self._encode(stretch, key) for key, stretch in stretches.items()}
        self._observe(sum(map(len, stretches.values())), found.values(), time.thread_time() - begun)
        return found

    def _encode(self, stretch: str, key: Key) -> bytes | None:
        try:
            return self._segments.encoded(stretch, key[1])
        except Refused:
            return None

    def _observe(self, characters: int, found: Iterable[bytes | None], seconds: float) -> None:
        tokens = sum(len(packed or b"") for packed in found) // blocks.TOKEN_BYTES
        if characters >= _TELLING and tokens and seconds > 0:
            self.rate = _FADE * self.rate + (1 - _FADE) * characters / seconds
            self.characters_per_token = _FADE * self.characters_per_token + (1 - _FADE) * characters / tokens

    def _done(self, new: dict[Key, str], characters: int, future: asyncio.Future[Results]) -> None:
        self.backlog -= characters
        for key in new:
            del self._running[key]
        if not future.cancelled() and future.exception() is None:
            for key, packed in future.result().items():
                if packed is not None:
                    self._segments.keep(key, packed)


class Counts(msgspec.Struct):
    """What became of the prompts that were read."""

    known: int = 0
    """Every token was known, or few were not and encoded at once."""
    encoded: int = 0
    """Waited for a thread."""
    given_up: int = 0
    """Would have waited too long: routed by the known part of the prompt."""
    partial: int = 0
    """Not known to its end: media, or a template or text that cannot be followed."""
