"""The canary: what the engine says it had cached, against what was predicted, per replica; an alarm when they part."""

from __future__ import annotations

import enum
import math
from collections import deque

import msgspec

from kvroute.router.core.sources import Source

WINDOW = 64
"""Requests that are compared."""
ENOUGH = 16
"""Requests with something cached, by either account, before an alarm is raised."""
PARTED = 0.25
"""Share of the cached tokens that the two accounts may disagree about before the alarm is raised."""
AGREED = 0.10
"""Share below which a raised alarm ends."""
RESET = 3
"""Different prompts in a row that found nothing where much was told to be cached: the cache was reset."""


class Hint(enum.Enum):
    """The likely cause of an alarm, and what to do."""

    NONE = ""
    NO_EVENTS = "requests complete there and no KV event comes: is the publisher reachable, and its topic right?"
    BLOCK_SIZE = "its KV events have a block size that is no multiple of ours: set knowledge.block_tokens"
    ADAPTER = "only requests with a LoRA adapter are off: does the engine know the adapter under another name?"
    SALT = "only requests with a cache_salt are off: something on the way changes it"
    CHAT = "only chat requests are off: the chat template here is not the engine's"
    TOKENIZER = "the engine finds more than we know of: the tokenizer or chat template here is not the engine's"
    EVICTED = "the engine holds less than is believed: others use it too, or its cache is smaller than told"
    UNSEEN = "the engine finds more than we know of: others send requests there, or routers do not share knowledge"


class Comparison(msgspec.Struct, frozen=True, gc=False):
    """One request, by both accounts."""

    predicted: float
    """Tokens that were believed to be cached when it was sent [tokens]."""
    reported: float
    """Tokens that the engine says were [tokens]."""
    tolerance: float
    """Difference that means nothing: the end of a full hit is computed again, blocks are whole [tokens]."""
    adapter: bool = False
    salted: bool = False
    chat: bool = False
    prompt: int = 0
    """Stands for the prompt: the same for the same prompt."""

    @property
    def missing(self) -> float:
        """Tokens predicted and not found [tokens]."""
        return _beyond(self.predicted - self.reported, self.tolerance)

    @property
    def unknown(self) -> float:
        """Tokens found and not predicted [tokens]."""
        return _beyond(self.reported - self.predicted, self.tolerance)


class Canary:
    """One replica's. Feed it every request whose reply tells its cached tokens."""

    __slots__ = (
        "_nothing", "_recent", "alarm", "alarms", "disagreement", "missing", "predicted", "reported", "unknown",
    )  # fmt: skip

    def __init__(self) -> None:
        self._recent: deque[Comparison] = deque(maxlen=WINDOW)
        self._nothing: frozenset[int] = frozenset()
        self.alarm = False
        self.alarms = 0
        """Times that the alarm was raised."""
        self.disagreement = 0.0
        """Share of the cached tokens of the last requests that the two accounts disagree about [0..1]."""
        self.predicted = 0.0
        """Tokens predicted to be cached, in all [tokens]."""
        self.reported = 0.0
        """Tokens that the engine reported, in all [tokens]."""
        self.missing = 0.0
        """Tokens predicted and not found, in all [tokens]."""
        self.unknown = 0.0
        """Tokens found and not predicted, in all [tokens]."""

    def saw(self, one: Comparison) -> bool:
        """Compare one request. True when the alarm was raised or ended just now."""
        self._recent.append(one)
        self.predicted += one.predicted
        self.reported += one.reported
        self.missing += one.missing
        self.unknown += one.unknown
        self._nothing = self._nothing | {one.prompt} if one.reported == 0.0 and one.missing else frozenset()
        share, seen = self._parted(self._recent)
        self.disagreement = share
        before = self.alarm
        if seen >= ENOUGH:
            self.alarm = share > (AGREED if before else PARTED)
        self.alarms += self.alarm and not before
        return self.alarm is not before

    @property
    def reset_suspected(self) -> bool:
        """The last requests found nothing of what was told to be there."""
        return len(self._nothing) >= RESET

    def forget(self) -> None:
        """The cache is another one from here on: what was compared before says nothing of it."""
        self._recent.clear()
        self._nothing = frozenset()
        self.alarm = False
        self.disagreement = 0.0

    def hint(self, source: Source, *, tokenized: bool, events_seen: bool, mismatched: bool) -> Hint:
        """The likely cause of the alarm; NONE without one.

        `tokenized`: its prompts are keyed by tokens. `events_seen`: KV events came since the cache was last empty.
        `mismatched`: their block size cannot be used.
        """
        if not self.alarm:
            return Hint.NONE
        if mismatched:
            return Hint.BLOCK_SIZE
        if source is not Source.EXPECTED and not events_seen:
            return Hint.NO_EVENTS
        for kind, hint in (("adapter", Hint.ADAPTER), ("salted", Hint.SALT), ("chat", Hint.CHAT)):
            if self._only(kind):
                return hint
        missing = sum(one.missing for one in self._recent)
        unknown = sum(one.unknown for one in self._recent)
        if missing >= unknown:
            return Hint.EVICTED
        return Hint.TOKENIZER if tokenized and source is not Source.EXPECTED else Hint.UNSEEN

    def _only(self, kind: str) -> bool:
        """Whether requests of this kind are off and the others are not."""
        of_kind = [one for one in self._recent if getattr(one, kind)]
        others = [one for one in self._recent if not getattr(one, kind)]
        share, seen = self._parted(of_kind)
        sound, enough = self._parted(others)
        return seen > 0 and share > PARTED and enough >= ENOUGH // 4 and sound <= AGREED

    @staticmethod
    def _parted(requests: deque[Comparison] | list[Comparison]) -> tuple[float, int]:
        """(share of tokens disagreed about, requests that had something cached by either account)."""
        off = total = 0.0
        seen = 0
        for one in requests:
            held = max(one.predicted, one.reported)
            if held > one.tolerance:
                seen += 1
                total += held
                off += one.missing + one.unknown
        return (off / total if total else 0.0), seen


def _beyond(difference: float, tolerance: float) -> float:
    return difference if difference > tolerance and math.isfinite(difference) else 0.0
