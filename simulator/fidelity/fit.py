"""The step time of a recorded run, from the recorded times of some of its requests.

Theory of operation. A log tells when requests gave their first and last token: a few hundred step ends out of
thousands. Which steps lie between two of them, and what each had to do, follows from the scheduler alone, so the run is
rehearsed with the clock set to the recorded time wherever a recorded token comes out; every interval between two such
moments is then one linear equation in c0..c5. The rehearsal needs a step time only where nothing was recorded, so
rehearse-and-regress is repeated until it stands still. Before it, a coarse search finds a step time whose queue is
about right; after it, a small correction of the decode and of the prefill part makes the rehearsal *without* any set
clock agree best with the same recorded times: rows that the regression held back (cold starts, hiccups) took real time.

What was found on three real runs of vLLM 0.19. All three engines schedule ahead, though only one says so: with an
engine that waits for each step, 277 of 486 recorded step ends fall into place, with one that does not, 426. The first
request is slow (0.06 to 0.4 s of first launches); so the fit is robust. c0..c4 alone meet every goal in ten of twelve
trials, but not for Qwen3-32B between a filling queue and a draining one (throughput 6 %, mean TTFT 14 % off): in a step
that also prefills, decodes read their KV at half the speed or less (0.24 +- 0.005 us a token more), so late prefills,
next to 127 decodes, look 16 % dearer a token than early ones in empty batches. c5 is that; with it all twelve meet all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from kvroute.simulator.fidelity.measures import Times, misfit, percentile
from kvroute.simulator.fidelity.recording import Timed
from kvroute.simulator.fidelity.regression import Estimate, Prior, regress
from kvroute.simulator.fidelity.rehearsal import (
    FIRST,
    LAST,
    SCHEDULED,
    Coefficients,
    Observed,
    Played,
    Rehearsal,
    Stretch,
    seconds,
)

ROUNDS = 8
"""Of rehearsing and regressing."""
WAYS = (1.0, 0.5, 0.25)
"""Of the way to a new estimate, the first that betters the fit is gone."""
STILL = 0.98
"""A round that lessens the misfit by less is the last."""
COARSE = (0.3, 0.1)
FINE = (0.02, 0.007)
"""Relative corrections that are tried, the largest first."""
WOKEN = 5
"""Requests that must have found the engine idle, to tell what lies before it."""
WELL = 0.01
"""A misfit that need not be bettered."""
RESTARTS = ((1.0, 1.0), (1.0, 0.7), (1.0, 1.4), (0.9, 1.0), (1.1, 1.0))
"""Where that is not reached: the decode and the prefill part are scaled by these, and all is done again."""
CLEARLY = 0.8
"""An engine is taken to schedule ahead where that leaves less than this share of the misfit that waiting does."""
MOST = 24
"""Corrections of one size."""

Tick = Callable[[], None]


class Fit(msgspec.Struct, frozen=True):
    """A step time, and how sure it is."""

    step: Coefficients
    errors: tuple[float, ...]
    """Standard errors; large where the run does not tell."""
    depth: int
    """2: the engine schedules ahead."""
    intervals: int
    """Equations that it is from."""
    misfit: float
    """Mean relative error of TTFT, TPOT and E2E of single requests, over those that it was fitted to."""


class Evidence(msgspec.Struct, frozen=True):
    """What a fit may look at."""

    requests: Sequence[Timed]
    """All of the run. Of those outside of `part` only arrival and sizes are looked at."""
    part: Sequence[int]
    """The requests whose times may be used."""
    priors: Sequence[Prior]
    """Of c0..c5."""
    woken: bool = True
    """Whether to look at first tokens of requests that found the engine idle."""


def fit(rehearsals: Sequence[Rehearsal], evidence: Evidence, tick: Tick = lambda: None) -> Fit:
    """The step time that explains when the requests of the evidence were served.

    Args:
        rehearsals: the run, once for every way of scheduling that it may have had; the best is taken.
        evidence: what may be looked at.
        tick: called after every rehearsal.

    Raises:
        ValueError: the evidence has no part to look at.
    """
    if not evidence.part:
        raise ValueError("a fit needs at least one request")
    best, chosen = None, rehearsals[0]
    for rehearsal in rehearsals:
        trial = _Trial(rehearsal, evidence, tick)
        found = trial.settled(trial.searched(trial.fit_of(_start(evidence)), COARSE))
        if best is None or found.misfit * _burden(found) < best.misfit * _burden(best):
            best, chosen = found, rehearsal
    assert best is not None, "there is at least one rehearsal"
    trial = _Trial(chosen, evidence, tick)
    best = trial.searched(best, FINE)
    for decode, prefill in RESTARTS:
        if best.misfit < WELL:
            break
        start = trial.fit_of(_scaled(best.step, decode, prefill))
        other = trial.searched(trial.settled(start), FINE)
        best = min(best, other, key=lambda one: one.misfit)
    return best


def times(played: Played) -> Times:
    """A rehearsal's times, to be measured."""
    return Times(played.scheduled, played.first, played.last)


class Equation(NamedTuple):
    """What was done between one recorded step end and the next, and how long it took, idle times left out."""

    work: Coefficients
    seconds: float
    woken: bool
    """It begins with a request that found the engine idle: what lies before the engine is in it."""


def equations(stretches: Sequence[Stretch]) -> Iterator[Equation]:
    """One for each recorded step end."""
    a = b = c = d = e = f = 0.0
    since: float | None = None
    woken = False
    for stretch in stretches:
        if stretch.idle or since is None:
            a = b = c = d = e = f = 0.0
            since, woken = stretch.start, True
        work = stretch.work
        a, b, c, d, e, f = a + work[0], b + work[1], c + work[2], d + work[3], e + work[4], f + work[5]
        if stretch.observed:
            yield Equation((a, b, c, d, e, f), stretch.end - since, woken)
            a = b = c = d = e = f = 0.0
            since, woken = stretch.end, False


def before_engine(rehearsal: Rehearsal, evidence: Evidence, found: Fit) -> float | None:
    """Seconds that requests which found the engine idle took beyond their steps: the median; None: too few did."""
    rows = equations(rehearsal.play(found.step, _observed(evidence)).stretches)
    beyond = [row.seconds - seconds(found.step, row.work) for row in rows if row.woken]
    return percentile(beyond, 0.5) if len(beyond) >= WOKEN else None


def _start(evidence: Evidence) -> Coefficients:
    """Where to begin: decode from the prior or the quickest requests, prefill from the promptest first tokens."""
    part = [evidence.requests[i] for i in evidence.part]
    tpot = sorted((one.last - one.first) / max(1, one.output_tokens - 1) for one in part)
    c0 = evidence.priors[0].value or 0.6 * tpot[len(tpot) // 10]
    waits = []
    for one in part:
        begun = one.scheduled if one.scheduled is not None else one.arrival
        waits.append(max(one.first - begun - c0, 1e-4) / one.prompt_tokens)
    return (max(c0, 1e-5), 2e-5, 1e-7, 0.8 * sorted(waits)[len(waits) // 10], 0.0, 0.0)


def _observed(evidence: Evidence) -> Observed:
    found: dict[tuple[int, int], float] = {}
    for i in evidence.part:
        one = evidence.requests[i]
        found[i, FIRST], found[i, LAST] = one.first, one.last
        if one.scheduled is not None:
            found[i, SCHEDULED] = one.scheduled
    return found


class _Trial:
    """One way of scheduling, tried."""

    def __init__(self, rehearsal: Rehearsal, evidence: Evidence, tick: Tick) -> None:
        self.rehearsal = rehearsal
        self.evidence = evidence
        self.tick = tick

    def fit_of(self, step: Coefficients) -> Fit:
        """A step time as it is, with how far it is off."""
        played = self.rehearsal.play(step)
        self.tick()
        missed = misfit(self.evidence.requests, times(played), self.evidence.part)
        return Fit(step, (math.inf,) * 6, self.rehearsal.depth, 0, missed)

    def settled(self, found: Fit) -> Fit:
        """Rehearse and regress until that explains the requests no better; half the way where the whole is too far."""
        observed = _observed(self.evidence)
        for _ in range(ROUNDS):
            estimate = self._regressed(found.step, observed)
            if estimate is None:
                break
            found = msgspec.structs.replace(found, errors=estimate.errors, intervals=estimate.rows)
            towards = self._towards(found, _positive(estimate.values))
            if towards.misfit > found.misfit * STILL:
                return min(found, towards, key=lambda one: one.misfit)
            found = towards
        return found

    def _towards(self, found: Fit, step: Coefficients) -> Fit:
        for way in WAYS:
            mixed = tuple(a + way * (b - a) for a, b in zip(found.step, step, strict=True))
            missed = self.fit_of(_positive(mixed)).misfit
            if missed < found.misfit:
                return msgspec.structs.replace(found, step=_positive(mixed), misfit=missed)
        return found

    def searched(self, found: Fit, strides: Sequence[float]) -> Fit:
        """Scale the decode part (c0..c2, c5) and the prefill part (c3, c4) to what explains the requests best."""
        for stride in strides:
            for decode in (True, False):
                down = self._walked(found, 1.0 / (1.0 + stride), decode)
                found = down if down is not found else self._walked(found, 1.0 + stride, decode)
        return found

    def _walked(self, found: Fit, factor: float, decode: bool) -> Fit:
        for _ in range(MOST):
            step = _scaled(found.step, factor if decode else 1.0, 1.0 if decode else factor)
            missed = self.fit_of(step).misfit
            if missed >= found.misfit:
                break
            found = msgspec.structs.replace(found, step=step, misfit=missed)
        return found

    def _regressed(self, step: Coefficients, observed: Observed) -> Estimate | None:
        rows = list(equations(self.rehearsal.play(step, observed).stretches))
        if not self.evidence.woken:
            rows = [row for row in rows if not row.woken]
        self.tick()
        if len(rows) < 2:
            return None
        weights = [1.0 / row.work[0] for row in rows]
        return regress([row.work for row in rows], [row.seconds for row in rows], weights, self.evidence.priors)


def _burden(found: Fit) -> float:
    """What the misfit of one way of scheduling counts beside another's."""
    return 1.0 / CLEARLY if found.depth > 1 else 1.0


def _scaled(step: Coefficients, decode: float, prefill: float) -> Coefficients:
    c0, c1, c2, c3, c4, c5 = step
    return (c0 * decode, c1 * decode, c2 * decode, c3 * prefill, c4 * prefill, c5 * decode)


def _positive(values: Sequence[float]) -> Coefficients:
    c0, c1, c2, c3, c4, c5 = values
    return (max(c0, 1e-6), c1, c2, max(c3, 1e-9), c4, c5)
