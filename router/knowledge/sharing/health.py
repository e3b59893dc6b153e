"""How the store serves: what is wrong with it, since when, and how long to wait before the next try."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kvroute.router.knowledge.sharing.store import StoreDown, Trouble

log = logging.getLogger(__name__)
SLOW_SECONDS = 0.05
"""A round trip that takes longer, on average, makes the store slow."""
_FIRST_WAIT = 0.05
"""Seconds from a failure to the next try, doubling from there on."""
_SMOOTH = 1 / 8


class Health:
    """Of one store, as several tasks find it: each kind of work ("write", "read"...) fails and recovers by itself."""

    def __init__(self, clock: Callable[[], float], longest_wait: float = 1.0) -> None:
        """`longest_wait`: from one failure to the next try, when there were many [s]."""
        self._clock = clock
        self._longest_wait = longest_wait
        self._troubles: dict[str, Trouble] = {}
        self._waits: dict[str, float] = {}
        self._failing: dict[str, float] = {}
        """When each kind of work that fails began to [s]."""
        self.since = clock()
        """When the state became what it is [s]."""
        self.failures = dict.fromkeys(Trouble, 0)
        self.round_trip = 0.0
        """Moving mean of a batch of writes, there and back [s]."""
        self._shown: Trouble | None = None

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong; None: all is well."""
        return self._shown

    @property
    def lasting(self) -> float:
        """For how long some kind of work has failed, as far as there is one [s]."""
        return self._clock() - min(self._failing.values()) if self._failing else 0.0

    def failed(self, work: str, error: StoreDown) -> float:
        """A call failed; how long to wait before the next [s]."""
        self.failures[error.trouble] += 1
        self._troubles[work] = error.trouble
        self._failing.setdefault(work, self._clock())
        wait = self._waits[work] = min(2 * self._waits.get(work, _FIRST_WAIT / 2), self._longest_wait)
        self._show(str(error))
        return wait

    def served(self, work: str, seconds: float | None = None) -> None:
        """A call was served, after so long where that tells something."""
        if seconds is not None:
            self.round_trip += (seconds - self.round_trip) * _SMOOTH
        self._troubles.pop(work, None)
        self._waits.pop(work, None)
        self._failing.pop(work, None)
        if self._shown is not None or self.round_trip > SLOW_SECONDS:
            self._show(f"a round trip takes {self.round_trip:.3f} s")

    def _show(self, about: str) -> None:
        slow = Trouble.SLOW if self.round_trip > SLOW_SECONDS else None
        now = next(iter(self._troubles.values()), slow)
        if now is self._shown:
            return
        if now is None:
            log.warning("the shared store serves again, after %.1f s", self._clock() - self.since)
        else:
            log.warning("the shared store is in trouble, routing goes on with what is known: %s", about)
        self._shown = now
        self.since = self._clock()
