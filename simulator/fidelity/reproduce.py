"""A folder of recorded runs, each fitted on one part of its requests and judged on the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.fidelity.capacity import capacity
from kvroute.simulator.fidelity.fit import Evidence, Fit, fit, times
from kvroute.simulator.fidelity.lookahead import looks_ahead
from kvroute.simulator.fidelity.measures import Measure, Times, compare, mean, worst
from kvroute.simulator.fidelity.priors import priors
from kvroute.simulator.fidelity.recording import Recording
from kvroute.simulator.fidelity.rehearsal import Played, Rehearsal
from kvroute.simulator.fidelity.splits import LEAST, Split, splits

NAMES = ("c0", "c1", "c2", "c3", "c4", "c5")


class Coefficient(msgspec.Struct, frozen=True):
    """One of c0..c5 [s, s/sequence, s/token, s/token, s/token^2, s/token]."""

    value: float
    error: float | None
    """Standard error; None: the part says nothing of it."""


class Series(msgspec.Struct, frozen=True):
    """Requests running and waiting, averaged over the run's own ticks."""

    running: Measure
    waiting: Measure


class Trial(msgspec.Struct, frozen=True):
    """One fit and how it was judged."""

    split: str
    fitted_on: str
    judged_on: str
    coefficients: dict[str, Coefficient]
    ahead: bool
    """Whether the engine was found to schedule the next step while one runs."""
    intervals: int
    """Between recorded step ends: the equations that the fit is from."""
    misfit: float
    """Mean relative error of single requests' TTFT, TPOT and end-to-end times, over those fitted on."""
    metrics: dict[str, Measure]
    """Over the requests judged on."""
    series: Series | None
    """Over the whole run."""
    preemptions: int
    """Simulated; the recorded runs do not say."""
    hit_tokens: int
    """Simulated tokens found in the prefix cache."""
    met: bool


class Result(msgspec.Struct, frozen=True):
    """One run."""

    name: str
    hardware: str
    model: str
    tensor_parallel: int
    requests: int
    limits: Limits
    capacity: str
    """Where the number of blocks is from."""
    fitted_on: str
    judged_on: str
    coefficients: dict[str, Coefficient]
    """Of the trial named first in `trials`."""
    metrics: dict[str, Measure]
    """The whole run: each request's simulated times are of the fit that did not see it, of two that halve the run."""
    worst: dict[str, Measure]
    """The worst of all trials, measure by measure; real and simulated are of what that trial was judged on."""
    met: bool
    """Every goal, over the whole run and in every trial."""
    trials: list[Trial]
    notes: list[str]


def reproduce(
    recordings: Sequence[Recording], *, mixed: bool = True, tick: Callable[[], None] = lambda: None
) -> list[Result]:
    """Every run, fitted and judged; runs of the same hardware, model and parallelism also on one another.

    Args:
        recordings: the runs.
        mixed: whether the step time has c5.
        tick: called after every rehearsal.
    """
    results = []
    for recording in recordings:
        halves = [
            (split, *_trial(recording, split, recording, mixed, tick))
            for split in splits(len(recording.requests))
            if min(len(split.fit), len(split.judge)) >= LEAST
        ]
        whole = _whole(recording, [(split, played) for split, _, played in halves[:2]])
        trials = [trial for _, trial, _ in halves]
        for other in recordings:
            if other is not recording and _alike(other, recording):
                trials.append(_trial(recording, _across(other, recording), other, mixed, tick)[0])
        results.append(_result(recording, trials, whole))
    return results


def _whole(recording: Recording, halves: Sequence[tuple[Split, Times]]) -> dict[str, Measure]:
    """The run's measures, each request by the half's fit that did not see it."""
    by_request = {i: played for split, played in halves for i in split.judge}
    every = range(len(recording.requests))
    if sorted(by_request) != list(every):
        return {}
    together = Times(
        [by_request[i].scheduled[i] for i in every],
        [by_request[i].first[i] for i in every],
        [by_request[i].last[i] for i in every],
    )
    return compare(recording.requests, together, every)


def _trial(
    recording: Recording, split: Split, source: Recording, mixed: bool, tick: Callable[[], None]
) -> tuple[Trial, Times]:
    """Fit on `split.fit` of `source`, judge on `split.judge` of `recording`; and when it had whom served."""
    found = fit(rehearsals(source), Evidence(source.requests, split.fit, priors(source, mixed)), tick)
    own = next(one for one in rehearsals(recording, found.depth))
    played = own.play(found.step)
    tick()
    served = times(played)
    metrics = compare(recording.requests, served, split.judge)
    trial = Trial(
        split.name,
        split.fitted_on,
        split.judged_on,
        coefficients(found),
        found.depth > 1,
        found.intervals,
        found.misfit,
        metrics,
        _series(recording, played),
        played.preemptions,
        played.hit_tokens,
        _met(metrics),
    )
    return trial, served


def _met(metrics: Mapping[str, Measure]) -> bool:
    return all(measure.met is not False for measure in metrics.values())


def formula(*, mixed: bool) -> str:
    """The step time in words."""
    text = (
        "step seconds = c0 + c1*batch + c2*kv_tokens_read_by_decodes + c3*prefill_tokens"
        " + c4*sum(n*(ctx + n/2)) over prefill chunks of n tokens behind ctx"
    )
    return text + (" + c5*kv_tokens_read_by_decodes in steps that also prefill" if mixed else "")


def coefficients(found: Fit) -> dict[str, Coefficient]:
    """c0..c5 of a fit with their standard errors."""
    return {
        name: Coefficient(value, error if error < float("inf") else None)
        for name, value, error in zip(NAMES, found.step, found.errors, strict=True)
    }


def rehearsals(recording: Recording, depth: int | None = None, delay: float = 0.0) -> list[Rehearsal]:
    """The run under each way of scheduling that it may have had, the likelier first; or under that one.

    `delay`: what each request spends on its way to the engine [s].
    """
    arrivals = [one.arrival + delay for one in recording.requests]
    limits = capacity(recording).limits
    ahead = recording.ahead if recording.ahead is not None else looks_ahead(recording.requests, limits)
    told = {True: (2,), False: (1,), None: (2, 1)}[ahead]
    return [
        Rehearsal(recording.asked, arrivals, limits, depth=one, cached=recording.cached)
        for one in (told if depth is None else (depth,))
    ]


def _alike(one: Recording, other: Recording) -> bool:
    return (one.hardware, one.model, one.tp) == (other.hardware, other.model, other.tp)


def _across(source: Recording, judged: Recording) -> Split:
    return Split(
        f"run {source.name}",
        f"all of the run {source.name}",
        "all requests",
        list(range(len(source.requests))),
        list(range(len(judged.requests))),
    )


def _series(recording: Recording, played: Played) -> Series | None:
    """Averages over the recorded ticks; a tick's time counts from about the first arrival."""
    ticks = recording.ticks
    if not ticks:
        return None
    running, waiting, place = [], [], 0
    stretches = played.stretches
    for tick in ticks:
        while place < len(stretches) and stretches[place].end < tick.t:
            place += 1
        here = stretches[place] if place < len(stretches) and stretches[place].start <= tick.t else None
        running.append(float(here.running) if here else 0.0)
        waiting.append(float(here.waiting) if here else 0.0)
    return Series(
        _plain(mean([tick.running for tick in ticks]), mean(running)),
        _plain(mean([tick.waiting for tick in ticks]), mean(waiting)),
    )


def _plain(real: float, simulated: float) -> Measure:
    return Measure(real, simulated, simulated / real - 1.0 if real else 0.0, None, None)


def _result(recording: Recording, trials: list[Trial], whole: dict[str, Measure]) -> Result:
    held = capacity(recording)
    notes = list(recording.notes)
    if not trials:
        notes.append(f"{len(recording.requests)} requests are too few to fit on one part and judge on another")
    return Result(
        recording.name,
        recording.hardware,
        recording.model,
        recording.tp,
        len(recording.requests),
        held.limits,
        held.source,
        trials[0].fitted_on if trials else "",
        "every request, by a fit to the half that it is not in" if trials else "",
        trials[0].coefficients if trials else {},
        whole,
        worst([trial.metrics for trial in trials]),
        bool(trials) and _met(whole) and all(trial.met for trial in trials),
        trials,
        notes,
    )
