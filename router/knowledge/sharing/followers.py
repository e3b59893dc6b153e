"""What takes in the entries of the Streams of beats and of requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from kvroute.router.knowledge.sharing.foreign import Foreign
from kvroute.router.knowledge.sharing.presence import Peers, Pulse
from kvroute.router.knowledge.sharing.records import Malformed, unpack_beat
from kvroute.router.knowledge.sharing.store import Entry, EntryId
from kvroute.router.knowledge.sharing.turns import Turn

FIELD = b"r"
"""The one field of an entry."""
_ENTRY_BYTES = 100
"""About what an entry takes in the store besides its data [bytes]."""
_FEWEST = 16
_MOST = 100_000
"""Entries kept while it is not known how large they are."""


class ExpectedFollower:
    """Of one replica's requests. It also knows how many of the newest entries the store shall keep."""

    def __init__(
        self, key: str, replica: str, foreign: Foreign, clock: Callable[[], float], budget: Callable[[], float]
    ) -> None:
        """`budget`: bytes that the Stream may take."""
        self.key = key
        self.after = EntryId()
        self.replica = replica
        self.warm = False
        """It has read what there was when it began."""
        self.gone = False
        """Its replica has left: it takes nothing in any more."""
        self._foreign = foreign
        self._clock = clock
        self._budget = budget
        self._sizes: deque[int] = deque()
        self._held = 0

    @property
    def longest(self) -> int:
        """Entries that fit into the budget, the newest, as sizes have been of late."""
        if not self.warm or not self._sizes:
            return _MOST
        return min(max(int(self._budget() * len(self._sizes) / self._held), _FEWEST), _MOST)

    def rewind(self) -> None:
        """Read from the beginning again."""
        self.after = EntryId()
        self.warm = False
        self._sizes.clear()
        self._held = 0

    async def entries(self, entries: Sequence[Entry]) -> None:
        """Take them in."""
        turn = Turn()
        for entry in entries:
            if self.gone:
                return
            self.after = entry.id
            data = entry.fields.get(FIELD, b"")
            self._weigh(len(data) + _ENTRY_BYTES)
            await turn.through(self._foreign.take(self.replica, data, self._clock()))

    def _weigh(self, size: int) -> None:
        self._sizes.append(size)
        self._held += size
        budget = self._budget()
        while self._held > budget and len(self._sizes) > 1:
            self._held -= self._sizes.popleft()


class PresenceFollower:
    """Of all routers' beats."""

    def __init__(self, key: str, pulse: Pulse, peers: Peers, foreign: Foreign, clock: Callable[[], float]) -> None:
        self.key = key
        self.after = EntryId()
        self.ahead = 0.0
        """The store's time of day minus our clock [s]."""
        self._pulse = pulse
        self._peers = peers
        self._foreign = foreign
        self._clock = clock

    async def entries(self, entries: Sequence[Entry]) -> None:
        """Take them in."""
        turn = Turn()
        for entry in entries:
            self.after = entry.id
            try:
                beat = unpack_beat(entry.fields.get(FIELD, b""))
            except Malformed:
                self._foreign.malformed += 1
                continue
            now = self._clock()
            if beat.router == self._pulse.router:
                sent = self._pulse.heard(beat, now)
                if sent is not None:
                    self.ahead = entry.id.epoch / 1000 - sent
                continue
            age = max(0.0, now + self.ahead - entry.id.epoch / 1000)
            self._peers.heard(beat, age, now)
            await turn.through(self._foreign.beat(beat, self._peers.alive(beat.router), now))
