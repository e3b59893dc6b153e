"""The fleet over time: a few hundred samples, however long the run turns out to be."""

from __future__ import annotations

from collections.abc import Sequence

from kvroute.simulator.engine.contract import Replica
from kvroute.simulator.runs.outcome import Sample

MOST = 400
"""Samples kept: when there are more, every second one goes, and they come half as often."""
FIRST_SECONDS = 0.05


class Sampling:
    """Takes a sample whenever one is due."""

    def __init__(self, engines: Sequence[Replica]) -> None:
        self._engines = engines
        self._every = FIRST_SECONDS
        self.samples: list[Sample] = []
        self.next = 0.0
        """When the next is due [s]."""

    def take(self, now: float) -> None:
        """The state just before `now`, which is that of the last due moment: nothing has happened since."""
        engines = self._engines
        moment = self.next + (now - self.next) // self._every * self._every
        self.samples.append(
            Sample(
                moment,
                [engine.running for engine in engines],
                [engine.waiting for engine in engines],
                [engine.kv_usage_at(moment) for engine in engines],
            )
        )
        if len(self.samples) > MOST:
            del self.samples[1::2]
            self._every *= 2.0
        self.next = moment + self._every
