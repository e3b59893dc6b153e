"""What is known of the replicas' caches, and how: the live counts of canary, KV events, lenses and sharing at a scrape.

Nothing is copied here: the objects are those that count, read while the page is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kvroute.router.core.canary import Canary
from kvroute.router.core.changes import Medium
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.events.counts import StreamCounts
from kvroute.router.knowledge.events.replay import Replays
from kvroute.router.knowledge.events.subscriber import Hearsay
from kvroute.router.knowledge.sharing.figures import Figures
from kvroute.router.knowledge.sharing.store import Trouble
from kvroute.router.knowledge.tokens.encoding import Counts

SOURCES = tuple(source.value for source in Source)
MEDIUMS = tuple((medium, medium.name.lower()) for medium in Medium)
SHARING_OK = "ok"
SHARING_STATES = (SHARING_OK, *(trouble.value for trouble in Trouble))


class Events(msgspec.Struct, frozen=True):
    """One replica's KV events, where this router follows them itself."""

    connected: bool
    silence: float | None
    """Since the last batch came; None: none has [s]."""
    next: int
    """The sequence number that is due."""
    counts: StreamCounts
    messages: Hearsay
    replays: Replays


class Known(msgspec.Struct, frozen=True):
    """One replica."""

    name: str
    source: str
    """expected, recovering or exact."""
    expected: int
    """Blocks expected of what was sent there."""
    observed: Mapping[str, int]
    """Blocks that KV events tell of, by medium."""
    canary: Canary
    events: Events | None
    """None: it has none, or another router follows them."""


class Lens(msgspec.Struct, frozen=True):
    """How one model's prompts are read."""

    model: str
    kind: str
    """token or text."""
    counts: Counts | None = None
    """None: they are read as text."""
    backlog: int = 0
    """Characters handed to the tokenizer and not encoded yet."""
    cache_bytes: int = 0
    """Token ids kept of recent stretches of text [bytes]."""
    faults: Mapping[str, int] = {}
    """Prompts that could not be rendered to their end, by reason."""


class Knowledge(msgspec.Struct, frozen=True):
    """All of it, of one router."""

    replicas: Sequence[Known] = ()
    lenses: Sequence[Lens] = ()
    sharing: Figures | None = None
    """None: knowledge is shared with nobody."""


def sharing_state(figures: Figures) -> str:
    """One of `SHARING_STATES`."""
    return SHARING_OK if figures.trouble is None else figures.trouble.value
