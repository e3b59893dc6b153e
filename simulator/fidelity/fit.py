"""The step time of a recorded run, from the recorded times of some of its requests.

Theory of operation. A log tells when requests gave their first and last token: a few hundred step ends out of
thousands. Which steps lie between two of them, and what each had to do, follows from the scheduler alone, so the run is
rehearsed with the clock set to the recorded time wherever a recorded token comes out; every interval between two such
moments is then one linear equation in c0..c4. The rehearsal needs a step time only where nothing was recorded, so
rehearse-and-regress is repeated until it stands still. A last, small correction of the decode and of the prefill part
makes the rehearsal *without* any set clock agree best with the same recorded times: rows that the robust regression
held back (cold starts, hiccups) took real time too.

Tried and left out: an engine that does not schedule ahead (it cannot explain that a request waits for the step under
way *and* the next: 277 of 486 step ends fit instead of 426); forcing recorded admissions (no gain).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import msgspec

from kvroute.simulator.fidelity.measures import Times, misfit
from kvroute.simulator.fidelity.recording import Timed
from kvroute.simulator.fidelity.regression import Estimate, Prior, regress
from kvroute.simulator.fidelity.rehearsal import Coefficients, Played, Rehearsal, Stretch

ROUNDS = 6
"""Of rehearsing and regressing."""
STRIDES = (0.03, 0.01)
"""Relative corrections that are tried, the largest first."""
UNTOLD = Prior(0.0, math.inf)

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


def fit(
    rehearsals: Sequence[Rehearsal],
    requests: Sequence[Timed],
    part: Sequence[int],
    priors: Sequence[Prior],
    tick: Tick = lambda: None,
) -> Fit:
    """The step time that explains when the requests `part` were served.

    Args:
        rehearsals: the run, once for every way of scheduling that it may have had; the best is taken.
        requests: all requests of the run. Of those that are not in `part` only arrival and sizes are looked at.
        part: the requests whose times may be used.
        priors: of c0..c4.
        tick: called after every rehearsal.

    Raises:
        ValueError: `part` is empty.
    """
    if not part:
        raise ValueError("a fit needs at least one request")
    observed = {(i, False): requests[i].first for i in part} | {(i, True): requests[i].last for i in part}
    best: Fit | None = None
    for rehearsal in rehearsals:
        for start in _starts(requests, part, priors):
            found = _settle(rehearsal, requests, part, priors, start, observed, tick)
            if best is None or found.misfit < best.misfit:
                best, chosen = found, rehearsal
    assert best is not None, "there is at least one rehearsal"
    return _correct(chosen, requests, part, best, tick)


def times(played: Played) -> Times:
    """A rehearsal's times, to be measured."""
    return Times(played.scheduled, played.first, played.last)


def equations(stretches: Sequence[Stretch]) -> Iterator[tuple[Coefficients, float]]:
    """(work, seconds) between one recorded step end and the next, without what idled in between."""
    work = [0.0] * 5
    since: float | None = None
    for stretch in stretches:
        if stretch.idle or since is None:
            work, since = [0.0] * 5, stretch.start
        work = [a + b for a, b in zip(work, stretch.work, strict=True)]
        if stretch.observed:
            yield (work[0], work[1], work[2], work[3], work[4]), stretch.end - since
            work, since = [0.0] * 5, stretch.end


def _starts(requests: Sequence[Timed], part: Sequence[int], priors: Sequence[Prior]) -> list[Coefficients]:
    """Where to begin: decode from the prior or the quickest requests, prefill from the promptest first tokens."""
    tpot = sorted((requests[i].last - requests[i].first) / max(1, requests[i].output_tokens - 1) for i in part)
    c0 = priors[0].value or 0.6 * tpot[len(tpot) // 10]
    waits = []
    for i in part:
        one = requests[i]
        begun = one.scheduled if one.scheduled is not None else one.arrival
        waits.append(max(one.first - begun - c0, 1e-4) / one.prompt_tokens)
    c3 = sorted(waits)[len(waits) // 10]
    return [(c0, 2e-5, 1e-7, c3 * factor, 0.0) for factor in (0.8, 0.4)]


def _settle(
    rehearsal: Rehearsal,
    requests: Sequence[Timed],
    part: Sequence[int],
    priors: Sequence[Prior],
    start: Coefficients,
    observed: dict[tuple[int, bool], float],
    tick: Tick,
) -> Fit:
    """Rehearse and regress until the coefficients stand still."""
    step = start
    found = Estimate(start, (math.inf,) * 5, 0.0, 0)
    for _ in range(ROUNDS):
        rows = list(equations(rehearsal.play(step, observed).stretches))
        tick()
        if len(rows) < 2:
            break
        found = regress(
            [work for work, _ in rows], [seconds for _, seconds in rows], [1.0 / work[0] for work, _ in rows], priors
        )
        before, step = step, _five(found.values)
        if max(abs(a - b) / max(b, 1e-12) for a, b in zip(step, before, strict=True)) < 1e-3:
            break
    played = rehearsal.play(step)
    tick()
    return Fit(step, found.errors, rehearsal.depth, found.rows, misfit(requests, times(played), part))


def _correct(rehearsal: Rehearsal, requests: Sequence[Timed], part: Sequence[int], found: Fit, tick: Tick) -> Fit:
    """Scale the decode part (c0..c2) and the prefill part (c3, c4) to what explains the same requests best."""
    for stride in STRIDES:
        for decode, prefill in ((1.0, 0.0), (0.0, 1.0)):
            for sign in (1.0, -1.0):
                better = True
                while better:
                    step = _scaled(found.step, 1.0 + sign * stride * decode, 1.0 + sign * stride * prefill)
                    missed = misfit(requests, times(rehearsal.play(step)), part)
                    tick()
                    better = missed < found.misfit
                    if better:
                        found = msgspec.structs.replace(found, step=step, misfit=missed)
    return found


def _scaled(step: Coefficients, decode: float, prefill: float) -> Coefficients:
    return (step[0] * decode, step[1] * decode, step[2] * decode, step[3] * prefill, step[4] * prefill)


def _five(values: Sequence[float]) -> Coefficients:
    c0, c1, c2, c3, c4 = values
    return (max(c0, 1e-6), c1, c2, max(c3, 1e-9), c4)
