"""Load that is not ours: what a replica's own metrics show beyond our leases."""

from __future__ import annotations

import math
from collections import deque

from kvroute.router.core.fleet import Fleet
from kvroute.router.core.replica import Replica
from kvroute.scorers.contract import Column

MEAN_MISS_TOKENS = 256.0
"""Mean uncached prompt tokens of our own requests, until there were any."""
READINGS = 3
"""Scrapes that must agree: one reading alone races with requests on the wire, the least of three does not."""


class Outside:
    """Keeps, per replica, the share of its load that our ledger does not explain, inside the fleet's table."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._seen: dict[str, deque[tuple[float, float]]] = {}
        self._applied: dict[str, tuple[float, float]] = {}

    def read(self, replica: Replica, running: float, waiting: float, mean_miss_tokens: float) -> bool:
        """One scrape of `vllm:num_requests_running` and `_waiting`.

        The engine counts sequences there, so ours are what our open leases hold. `mean_miss_tokens` is what a waiting
        sequence of others is taken to prefill [tokens]. A reading that is no number is as if there were none. True when
        it was applied.
        """
        if not math.isfinite(running + waiting + mean_miss_tokens):
            return False
        foreign = max(running + waiting - replica.sequences, 0.0)
        foreign_waiting = foreign * waiting / (running + waiting) if foreign else 0.0
        seen = self._seen.setdefault(replica.name, deque(maxlen=READINGS))
        seen.append((foreign - foreign_waiting, foreign_waiting))
        if len(seen) < READINGS:
            return False
        self.apply(replica, min(r for r, _ in seen), min(w for _, w in seen), mean_miss_tokens)
        return True

    def applied(self, replica: Replica) -> tuple[float, float]:
        """Others' sequences that are taken to run and to wait there."""
        return self._applied.get(replica.name, (0.0, 0.0))

    def forget(self, replica: Replica) -> None:
        """The replica restarted or left: nothing of others is known of it."""
        self._seen.pop(replica.name, None)
        self.apply(replica, 0.0, 0.0, 0.0)
        del self._applied[replica.name]

    def apply(self, replica: Replica, running: float, waiting: float, miss_tokens: float) -> None:
        """From here on so many sequences of others run and wait there."""
        fleet = self._fleet
        old_running, old_waiting = self._applied.get(replica.name, (0.0, 0.0))
        fleet.add(replica, Column.REQUESTS, running + waiting - old_running - old_waiting)
        fleet.add(replica, Column.DECODING, running - old_running)
        per_token = replica.cells[Column.SECONDS_PER_TOKEN]
        fleet.write(replica, Column.OUTSIDE_SECONDS, waiting * miss_tokens * per_token)
        self._applied[replica.name] = (running, waiting)
        fleet.refresh_rate(replica)
