"""Encoding off the event loop: a few threads, each stretch once at a time, never more than can be waited for.

Short prompts have threads of their own, so that no long one is in their way. Everything here but the encoding itself
runs on the loop, so that nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec

from kvroute.router.core import blocks
from kvroute.router.knowledge.tokens.lane import Job, Lane, patience
from kvroute.router.knowledge.tokens.segments import Key, Piece, Refused, Segments

WORKERS = 2
MOST_SECONDS = 1.0
"""No prompt waits longer for its tokens: it is routed by what is known of it."""
TINY = 256
"""Characters that are encoded at once: about 60 microseconds, what a thread's answer takes."""

SHORT = 64 << 10
"""A prompt with more new characters than this is a long one: about 30 milliseconds of a thread."""

LONGEST = 4 << 20
"""Nothing longer is encoded [characters]: about a million tokens, whose making into a list stops all other threads."""

_PRIOR_CHARACTERS = 4.0
"""Characters per token before anything is known."""
_FADE = 0.9
_TELLING = 2048
"""Texts of fewer characters tell more about the thread than about the tokenizer."""

Results: TypeAlias = dict[Key, bytes | None]
"""Packed ids; None: the tokenizer refuses the stretch."""


class Waiting(msgspec.Struct, gc=False):
    """What a prompt waits for."""

    futures: dict[Key, asyncio.Future[Results]]
    """Per stretch, that in whose results it will be. They belong to all who wait for the same stretch: look at them
    with `asyncio.wait`, never cancel them."""
    seconds: float
    """To be waited at most; 0: it would take too long, and is done when there is nothing else to do."""


class Encoding:
    """The threads of one tokenizer, and what they are at. Made and used on one event loop."""

    def __init__(self, segments: Segments, workers: int = WORKERS, most_seconds: float = MOST_SECONDS) -> None:
        """`workers`: threads for short prompts; half as many, one at the least, are there for the long ones."""
        self._segments = segments
        self.short = Lane("kvroute-encode", workers)
        self.long = Lane("kvroute-encode-long", max(1, workers // 2))
        self.apart = Lane("kvroute-read", 1, 1e9)
        """For prompts that take long to be rendered, cut and hashed; its jobs' sizes are nanoseconds, as guessed."""
        self.most_seconds = most_seconds
        self._running: dict[Key, tuple[Lane, Job[Results]]] = {}
        self.characters_per_token = _PRIOR_CHARACTERS
        """As seen; estimates texts that are not encoded."""

    def close(self) -> None:
        """Let the threads end; what they have not begun is dropped."""
        for lane in (self.short, self.long, self.apart):
            lane.close()

    @property
    def backlog(self) -> int:
        """Characters handed to the threads and not encoded yet."""
        return int(sum(lane.ahead + lane.behind for lane in (self.short, self.long)))

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

    def start(self, text: str, pieces: Sequence[Piece]) -> Waiting:
        """Have the missing pieces encoded."""
        now = time.monotonic()
        running = self._running
        asked = {piece.key: text[piece.start : piece.end] for piece in pieces if piece.packed is None and piece.key}
        new = {key: stretch for key, stretch in asked.items() if key not in running}
        due = max((self._due(key, now) for key in asked if key not in new), default=now)
        if new and not self._put(new, due, now):
            return Waiting({}, 0)
        jobs = {key: running[key][1] for key in asked}
        seconds = max(max(job.due for job in jobs.values()), due) - now
        if seconds > self.most_seconds:
            return Waiting({}, 0)
        wait = min(self.most_seconds, patience(seconds))
        return Waiting({key: job.future for key, job in jobs.items()}, wait)

    async def in_place(self, text: str, pieces: Sequence[Piece], until: float) -> bool:
        """Have very many pieces encoded, which nobody else waits for. False: not all of them are by then."""
        size = sum([piece.end - piece.start for piece in pieces])
        return await self.long.done(functools.partial(self._in_place, text, pieces), size, until) is not None

    def _in_place(self, text: str, pieces: Sequence[Piece]) -> bool:
        """In a thread: the pieces are one prompt's own, and what stands in them stays."""
        for piece in pieces:
            if piece.key is not None:
                piece.packed = self._encode(text[piece.start : piece.end], piece.key)
        return True

    def _due(self, key: Key, now: float) -> float:
        """When a stretch that is under way should be done."""
        lane, job = self._running[key]
        return math.inf if job.background or lane.overdue(job, now) else job.due

    def _put(self, new: dict[Key, str], due: float, now: float) -> bool:
        """Have stretches encoded: now if that will be done in time, else when there is nothing else to do. False: not
        at all, there is too much of that. `due`: when the rest of the prompt will be there."""
        size = sum(map(len, new.values()))
        lane = self.short if size <= SHORT else self.long
        own = now + lane.predicted(size, now)
        late = max(own, due) - now > self.most_seconds
        if size > LONGEST:
            return False
        if late and not lane.has_room_behind(size):
            return False
        job = lane.put(functools.partial(self._all, new), size, own, background=late)
        self._running.update(dict.fromkeys(new, (lane, job)))
        job.future.add_done_callback(lambda done: self._done(new, size, done))
        return True

    def _all(self, stretches: dict[Key, str]) -> Results:
        """In a thread."""
        return {key: self._encode(stretch, key) for key, stretch in stretches.items()}

    def _encode(self, stretch: str, key: Key) -> bytes | None:
        try:
            return self._segments.encoded(stretch, key[1])
        except Refused:
            return None

    def _done(self, new: dict[Key, str], size: int, future: asyncio.Future[Results]) -> None:
        for key in new:
            del self._running[key]
        if future.cancelled() or future.exception() is not None:
            return
        found = future.result()
        for key, packed in found.items():
            if packed is not None:
                self._segments.keep(key, packed)
        self._observe(size, sum(len(packed or b"") for packed in found.values()) // blocks.TOKEN_BYTES)

    def _observe(self, characters: int, tokens: int) -> None:
        if characters >= _TELLING and tokens:
            self.characters_per_token = _FADE * self.characters_per_token + (1 - _FADE) * characters / tokens


class Counts(msgspec.Struct):
    """What became of the prompts that were read."""

    known: int = 0
    """Every token was known, or few were not and encoded at once."""
    encoded: int = 0
    """Waited for a thread."""
    given_up: int = 0
    """Would have waited too long: routed by the known part of the prompt. The rest is encoded later, for its next turn,
    unless there is too much of that."""
    partial: int = 0
    """Not known to its end: media, or a template or text that cannot be followed."""
