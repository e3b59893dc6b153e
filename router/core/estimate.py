"""What is learnt of each replica's speed, and the predicted TTFT that every decision carries."""

from __future__ import annotations

import math
from bisect import bisect_left, insort

import numpy as np

from kvroute.router.core.fleet import Fleet
from kvroute.router.core.replica import Replica
from kvroute.scorers.contract import Column, Floats

WINDOW = 48
"""Observations of one replica that its factor is taken from."""
POOLED_WINDOW = 64
"""Observations of the whole fleet that its line is fitted to."""
REFIT_EVERY = 8
"""Observations of a replica between two looks at its factor."""
POOLED_EVERY = 16
"""Observations of the fleet between two fits of its line."""
POOLED_SECONDS = 0.05
"""Least time between two fits of a line that rests on a full window: a large fleet would fit it 100 times a second."""
SPREAD = 10.0
"""A replica's factor stays within this of the fleet's prior."""
SANE = (1e-3, 1e4)
"""Bounds of the prior itself, as factors on the step model: a CPU engine is some 50 times slower than an H100."""
LEAST_WORK = 0.01
"""Predicted seconds below which a stream tells nothing of its replica's factor."""
MOST_BASE = 0.2
"""Longest constant part of TTFT: what is above it is slowness [s]."""
SHRINK = 16.0
"""Observations' worth of weight that the prior has against a replica's own factor."""


def median(values: Floats) -> float:
    """The median, at a tenth of the time that numpy's takes for so few."""
    ordered = np.sort(values)
    middle = ordered.size // 2
    upper: float = ordered.item(middle)
    return upper if ordered.size % 2 else 0.5 * (ordered.item(middle - 1) + upper)


class Line:
    """The fleet's TTFT ~ base + factor * work, fitted robustly to its last observations.

    Fitted to all replicas together, for one alone sees too few kinds of requests to tell a constant from a slope.
    """

    __slots__ = ("_at", "_count", "_ttft", "_work", "base", "factor", "fitted")

    def __init__(self) -> None:
        self._work: Floats = np.zeros(POOLED_WINDOW)
        self._ttft: Floats = np.zeros(POOLED_WINDOW)
        self._count = 0
        self._at = -math.inf
        self.fitted = False
        """The factor has been told from the base at least once."""
        self.factor = 1.0
        self.base = 0.0
        """Constant part of TTFT [s]."""

    def observe(self, work: float, ttft: float, factor: float, now: float) -> None:
        """Add one stream; `factor` is what to believe while the slope cannot be told."""
        at = self._count % POOLED_WINDOW
        self._work[at] = work
        self._ttft[at] = ttft
        self._count += 1
        if self._count % POOLED_EVERY:
            return
        if self._count <= POOLED_WINDOW or not now - self._at < POOLED_SECONDS:
            self._at = now
            self._fit(min(self._count, POOLED_WINDOW), factor)

    def _fit(self, n: int, factor: float) -> None:
        """Theil-Sen: the median of pairwise slopes, then the median intercept. A quarter may be outliers."""
        work, ttft = self._work[:n], self._ttft[:n]
        dx = np.subtract.outer(work, work)
        apart = dx > 0.25 * work.item(int(work.argmax()))  # each pair once: the other way round its dx is negative
        slope = 0.0
        if np.count_nonzero(apart) >= 2 * n:
            slope = median(np.subtract.outer(ttft, ttft)[apart] / dx[apart])
        if slope > 0.0:
            self.factor = min(max(slope, SANE[0]), SANE[1])
            self.fitted = True
        elif not self.fitted:  # all requests alike: the intercept cannot be told from the slope
            self.factor = factor
        self.base = min(max(0.0, median(ttft - self.factor * work)), MOST_BASE)


class Rate:
    """One replica's factor: the median of (TTFT - base) / work over its last streams that had work to do, each counting
    by its work: what a step more or less adds to a short prefill says little of the speed."""

    __slots__ = ("_count", "_ttft", "_work", "factor", "observed")

    def __init__(self) -> None:
        self._work: Floats = np.zeros(WINDOW)
        self._ttft: Floats = np.zeros(WINDOW)
        self._count = 0
        self.observed = 0
        """Observations that the factor rests on; 0 = none yet."""
        self.factor = 1.0

    def observe(self, work: float, ttft: float, base: float) -> bool:
        """Add one stream: `work` = predicted start at factor 1 [s], `ttft` = what happened [s]. True when refitted."""
        at = self._count % WINDOW
        self._work[at] = work
        self._ttft[at] = ttft
        self._count += 1
        if self._count % REFIT_EVERY:
            return False
        n = min(self._count, WINDOW)
        # Below a hundredth of the time it is noise, or a base that is believed too long, that would speak.
        computing = np.maximum(self._ttft[:n] - base, 0.01 * self._ttft[:n])
        ratios = computing / self._work[:n]
        order = np.argsort(ratios)
        weight = np.cumsum(self._work[:n][order])
        middle = ratios[order[np.searchsorted(weight, 0.5 * weight[-1])]]
        self.factor = min(max(float(middle), SANE[0]), SANE[1])
        self.observed = n
        return True


class Estimate:
    """Learned rates of all replicas; writes them into the fleet's table."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._rates: dict[str, Rate] = {}
        self._factors: list[float] = []
        """Of the rates that were observed, in order."""
        self._engine_factor: dict[str, float] = {}
        self.line = Line()
        self._spread_prior = 1.0

    def rate(self, replica: Replica) -> Rate:
        """The fit of one replica."""
        rate = self._rates.get(replica.name)
        if rate is None:
            rate = self._rates[replica.name] = Rate()
        return rate

    def forget(self, replica: Replica) -> None:
        """The replica is gone or another engine now: start again from the prior."""
        rate = self._rates.pop(replica.name, None)
        if rate is not None and rate.observed:
            del self._factors[bisect_left(self._factors, rate.factor)]
        self._engine_factor.pop(replica.name, None)
        self._apply(replica, self.prior())

    def prior(self) -> float:
        """What an unobserved replica is taken to be: the fleet's median, else what engines' own sums say, else 1."""
        ordered = self._factors or sorted(self._engine_factor.values()) or [1.0]
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])

    def first_output(self, replica: Replica, work: float, ttft: float, now: float = math.inf) -> None:
        """A stream's first output came `ttft` seconds after its decision, predicted as `work` seconds at factor 1.

        `now`: when it came; inf: nobody knows, so the fleet's line is fitted as often as it may be [s].
        """
        if work <= 0.0 or ttft <= 0.0:
            return
        line = self.line
        line.observe(work, ttft, replica.slow, now)
        # Told by the fleet's slowness, lest a replica that is believed fast stops to be heard.
        if work * max(replica.slow, line.factor) < LEAST_WORK and ttft < MOST_BASE:
            return
        rate = self.rate(replica)
        known = rate.factor if rate.observed else None
        if rate.observe(work, ttft, line.base):
            if known is not None:
                del self._factors[bisect_left(self._factors, known)]
            insort(self._factors, rate.factor)
            prior = self.prior()
            self._apply(replica, prior)
            self._spread(prior)

    def engine_sums(self, replica: Replica, prefill_seconds: float, computed_tokens: float) -> None:
        """The engine's own change of prefill time and computed prompt tokens since the last scrape."""
        if computed_tokens < 64 or prefill_seconds <= 0.0:
            return
        measured = prefill_seconds / computed_tokens / self._fleet.step.seconds_per_token(0.0, 0.0)
        measured = min(max(measured, SANE[0]), SANE[1])
        known = self._engine_factor.get(replica.name)
        self._engine_factor[replica.name] = measured if known is None else known + 0.3 * (measured - known)
        if not self.rate(replica).observed:
            self._apply(replica, self._engine_factor[replica.name])

    def output(self, replica: Replica, tokens: int) -> None:
        """A reply reported its completion tokens."""
        self._fleet.add(replica, Column.OUTPUT_TOKENS, 0.05 * (tokens - replica.cells[Column.OUTPUT_TOKENS]))

    def _spread(self, prior: float) -> None:
        """Replicas without a fit follow the prior, else the unknown ones would look fast beside slow known ones."""
        if abs(prior - self._spread_prior) <= 0.05 * self._spread_prior:
            return
        self._spread_prior = prior
        for replica in self._fleet:
            rate = self._rates.get(replica.name)
            if (rate is None or not rate.observed) and replica.name not in self._engine_factor:
                self._apply(replica, prior)

    def _apply(self, replica: Replica, prior: float) -> None:
        rate = self._rates.get(replica.name)
        factor = prior
        if rate is not None and rate.observed:
            trust = rate.observed / (rate.observed + SHRINK)
            own = min(max(rate.factor, prior / SPREAD), prior * SPREAD)
            factor = math.exp(trust * math.log(own) + (1.0 - trust) * math.log(prior))
        replica.slow = factor
        self._fleet.write(replica, Column.BASE_SECONDS, self.line.base)
        self._fleet.refresh_rate(replica)
