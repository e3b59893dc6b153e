"""Who is alive. Each router beats into one Stream; a router whose beats have stopped for `ttl` is taken to be dead.

A beat names the router's open leases, so followers drop what it does not have: a record that was lost does no lasting
harm. A router that could not beat for so long that others may have given it up tells its open requests anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvroute.router.knowledge.sharing import records
from kvroute.router.knowledge.sharing.records import Beat

BEAT_SECONDS = 0.5
TTL_SECONDS = 2.0
_MOST = 1_000
"""Beats that are waited for at most."""


class Pulse:
    """This router's own beats."""

    def __init__(self, router: int, ttl_seconds: float) -> None:
        self.router = router
        self._given_up = ttl_seconds / 2
        """Others may see the end of a pause later than it was, so half their patience counts [s]."""
        self._number = 0
        self._begun = 0.0
        self._heard = 0
        """The newest own beat that came back."""
        self._sent: dict[int, float] = {}
        """When the beats that were written and have not come back were made [s]."""
        self._last: float | None = None
        self._lag = 0.0
        self.lapses = 0
        """Times that others may have given this router up."""

    def beat(self, newest: int, open: Iterable[int], now: float, *, leaving: bool = False) -> bytes:
        """What to write now."""
        self._number += 1
        self._begun = now
        return records.pack_beat(self.router, self._number, newest, open, leaving=leaving)

    def arrived(self, now: float) -> bool:
        """The last beat was written. True: it comes so late that open requests are to be told anew."""
        last, self._last = self._last, now
        if self._heard < self._number and len(self._sent) < _MOST:
            self._sent[self._number] = self._begun
        late = last is not None and now - last > self._given_up
        self.lapses += late
        return late

    def heard(self, beat: Beat, now: float) -> float | None:
        """One of its own beats came back: when it was made [s]; None where that is not known any more."""
        new = beat.number > self._heard
        self._heard = max(self._heard, beat.number)
        sent = self._sent.pop(beat.number, None)
        if sent is None and new and beat.number == self._number:
            sent = self._begun  # it was read before its writing was confirmed
        if sent is None:
            return None
        self._lag = now - sent
        self._sent = {number: at for number, at in self._sent.items() if number > beat.number}
        return sent

    def lag(self, now: float) -> float:
        """From a beat's writing to its reading here, so far at least: what others' records take as well [s]."""
        return max(self._lag, now - min(self._sent.values(), default=now))

    def deaf(self, now: float, seconds: float) -> bool:
        """Whether beats are written but have not come back for so long: we read at the wrong place."""
        return bool(self._sent) and now - min(self._sent.values()) > seconds

    def listen_anew(self) -> None:
        """Beats that have not come back yet are not waited for."""
        self._sent.clear()


class Peers:
    """The other routers, as far as their beats tell."""

    def __init__(self, ttl_seconds: float) -> None:
        self._ttl = ttl_seconds
        self._until: dict[int, float] = {}

    def __len__(self) -> int:
        """Other routers that are alive."""
        return len(self._until)

    def __iter__(self) -> Iterator[int]:
        """Their ids."""
        return iter(self._until)

    def alive(self, router: int) -> bool:
        """Whether it beats."""
        return router in self._until

    def heard(self, beat: Beat, age: float, now: float) -> None:
        """A beat came, written `age` seconds ago. One that is leaving is gone at once."""
        if beat.leaving:
            self._until.pop(beat.router, None)
        elif age < self._ttl:
            self._until[beat.router] = max(self._until.get(beat.router, 0.0), now + self._ttl - age)

    def lapsed(self, now: float) -> Sequence[int]:
        """Those that have just died."""
        dead = [router for router, until in self._until.items() if until <= now]
        for router in dead:
            del self._until[router]
        return dead
