"""Whether a run sent as much as was asked for: sessions begin one by one, and only then have turns to send."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.reports.units import digits
from kvroute.simulator.search.case import Case, Source
from kvroute.simulator.workloads import options

OFF = 0.1
"""Share by which the rate may be off before that is worth a word."""
CHANCE = 3.0
"""Over the square root of the number of requests: what chance alone explains."""
LEAST = 0.8
"""Share of the rate asked for, below which a run says nothing of that rate."""
LONG_SESSIONS = 1.5
"""More sessions hold longer ones, which a short run did not see: that many times the requests it would seem to take."""


class Sent(msgspec.Struct, frozen=True):
    """What was asked for beside what came of it."""

    asked: float
    """Requests a second."""
    sent: float
    requests: int
    enough: int | None
    """About so many --requests would do; None: more requests are not what is missing, or cannot be had."""

    @property
    def off(self) -> bool:
        """By more than a tenth, and by more than chance explains."""
        return abs(self.sent / self.asked - 1.0) > max(OFF, CHANCE / math.sqrt(self.requests))

    @property
    def too_little(self) -> bool:
        """To say anything of the rate that was asked for."""
        return self.off and self.sent < LEAST * self.asked

    def text(self) -> str:
        """In a sentence."""
        said = (
            f"{digits(self.sent)} requests/s were sent, not the {digits(self.asked)} asked for, as {self.requests:,}"
            " requests are too few to be in full swing"
            if self.sent < self.asked
            else f"{digits(self.sent)} requests/s were sent, not the {digits(self.asked)} asked for"
        )
        return said + ("" if self.enough is None else f": --requests {self.enough} would come close")


def asked_rate(source: Source) -> float | None:
    """Requests a second that the flags, or the workload's own options, name; None: they name none."""
    rate = source.rate
    if rate is None:
        try:
            rate = float(options.split(source.spec)[1]["rate"])
        except (KeyError, ValueError):
            return None
    return rate * source.speedup


def sent(source: Source, summary: Summary) -> Sent | None:
    """The two rates of a run; None where none was asked for, or where a saturated fleet or a stop explains the rest."""
    asked = asked_rate(source)
    if asked is None or summary.offered_rate is None or summary.saturated or summary.unfinished:
        return None
    short = asked / summary.offered_rate - 1.0
    enough = None
    if short > 0.0 and ":" not in source.spec.partition(",")[0]:
        # n requests take n / asked seconds, and the sessions' own time once more until the last has ended.
        share = 1.0 if source.part is None else source.part[1] - source.part[0]
        enough = _rounded(LONG_SESSIONS * summary.requests / share * short * (1.0 - OFF) / OFF)
    return Sent(asked, summary.offered_rate, summary.requests, enough)


def warnings(runs: Sequence[tuple[Case, Summary]]) -> list[str]:
    """One line for the run that is furthest off, where there is any."""
    found = [one for one in (sent(case.source, summary) for case, summary in runs) if one is not None and one.off]
    if not found:
        return []
    worst = min(found, key=lambda one: one.sent / one.asked if one.sent < one.asked else one.asked / one.sent)
    more = f" ({len(found)} of {len(runs)} runs are off by more than a tenth)" if len(found) > 1 else ""
    return [worst.text() + more + "."]


def _rounded(requests: float) -> int:
    """Two digits, upwards."""
    size: int = 10 ** max(math.floor(math.log10(max(requests, 1.0))) - 1, 0)
    return math.ceil(requests / size) * size
