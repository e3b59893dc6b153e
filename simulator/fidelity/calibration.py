"""A kind of replica from a log: c0..c5, what lies between engine and client, and how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.fidelity.capacity import capacity
from kvroute.simulator.fidelity.fit import Evidence, Fit, before_engine, fit, times
from kvroute.simulator.fidelity.lookahead import looks_ahead
from kvroute.simulator.fidelity.measures import Measure, compare, worst
from kvroute.simulator.fidelity.priors import priors
from kvroute.simulator.fidelity.recording import FidelityError, Recording
from kvroute.simulator.fidelity.regression import Prior
from kvroute.simulator.fidelity.reproduce import NAMES, Coefficient, coefficients, rehearsals
from kvroute.simulator.fidelity.splits import splits
from kvroute.simulator.latency.kind import Ingress, Kind

LEAST = 16
"""Requests that a step time can be read from."""
ROUNDS = 3
"""Of finding out what lies before the engine."""
ENOUGH = 2e-4
"""Seconds of it that need no further round."""
USUAL = Prior(1e-7, 3e-7)


class HeldOut(msgspec.Struct, frozen=True):
    """One trial: fitted on one part, judged on another."""

    fitted_on: str
    judged_on: str
    metrics: dict[str, Measure]


class Calibration(msgspec.Struct, frozen=True):
    """What a log tells."""

    log: str
    requests: int
    coefficients: dict[str, Coefficient]
    """From all requests."""
    told: dict[str, bool]
    """Whether the log says more of a coefficient than was thought before."""
    ahead: bool
    intervals: int
    misfit: float
    held_out: list[HeldOut]
    metrics: dict[str, Measure]
    """The worst of those trials."""
    met: bool
    kind: Kind
    notes: list[str]


def calibrate(recordings: Sequence[Recording], name: str, tick: Callable[[], None] = lambda: None) -> Calibration:
    """Fit the first recording; judge on halves of it left out in turn, and on the other recordings.

    Raises:
        FidelityError: it has too few requests, or limits that no kind has.
    """
    recording = recordings[0]
    limits = recording.limits
    if limits.max_num_seqs > limits.max_num_batched_tokens:
        raise FidelityError(
            f"{recording.name}: no engine runs up to {limits.max_num_seqs} sequences with"
            f" {limits.max_num_batched_tokens} tokens a step; give --max-num-seqs and --max-num-batched-tokens as it"
            " was started"
        )
    count = len(recording.requests)
    if count < LEAST:
        raise FidelityError(f"{recording.name}: {count} requests are too few to fit a step time; {LEAST} are the least")
    thought = thoughts(recording)
    everything = list(range(count))
    delay, found = _delayed(recording, everything, thought, tick)
    if not found.intervals:
        raise FidelityError(
            f"{recording.name}: no step time can be read from this log: its {count} requests leave {found.intervals}"
            " intervals between step ends; check --max-num-seqs, --max-num-batched-tokens and --blocks, try --ahead or"
            " --no-ahead, or give a log of a busier time"
        )
    trials = []
    for split in splits(count)[:2]:
        part = fit(rehearsals(recording, found.depth, delay), Evidence(recording.requests, split.fit, thought), tick)
        trials.append(_judged(recording, part, delay, split.judge, split.fitted_on, split.judged_on))
    for other in recordings[1:]:
        if len(other.requests) >= LEAST:
            whole = list(range(len(other.requests)))
            trials.append(_judged(other, found, delay, whole, f"replica {recording.name}", f"replica {other.name}"))
    metrics = worst([trial.metrics for trial in trials])
    told = {
        key: error < prior.error and error < max(value, 1e-12)
        for key, value, error, prior in zip(NAMES, found.step, found.errors, thought, strict=True)
    }
    return Calibration(
        recording.name,
        count,
        coefficients(found),
        told,
        found.depth > 1,
        found.intervals,
        found.misfit,
        trials,
        metrics,
        all(measure.met is not False for measure in metrics.values()),
        _kind(recording, found, delay, name, metrics),
        [*recording.notes, *_notes(recording, found, told)],
    )


def thoughts(recording: Recording) -> list[Prior]:
    """Priors of c0..c5 where all must come from the log: c2 has one as well."""
    c0, c1, _, c3, c4, c5 = priors(recording)
    return [c0, c1, USUAL, c3, c4, c5]


def _delayed(
    recording: Recording, part: Sequence[int], thought: Sequence[Prior], tick: Callable[[], None]
) -> tuple[float, Fit]:
    """What requests spend before the engine [s], and the fit with it.

    Where stamps do not tell, it is what those that found the engine idle took beyond their steps.
    """
    evidence = Evidence(recording.requests, part, thought)
    known = [one.queued - one.arrival for one in recording.requests if one.queued is not None]
    if known or not recording.one_clock:
        delay = max(0.0, min(known, default=0.0)) if recording.one_clock else 0.0
        return delay, fit(rehearsals(recording, None, delay), evidence, tick)
    busy = msgspec.structs.replace(evidence, woken=False)
    delay, found = 0.0, fit(rehearsals(recording), busy, tick)
    for _ in range(ROUNDS):
        more = before_engine(rehearsals(recording, found.depth, delay)[0], evidence, found)
        if more is None:  # the engine was hardly ever idle: some milliseconds do not show
            return delay or Ingress().seconds, found
        if abs(more) < ENOUGH:
            break
        delay = max(0.0, delay + more)
        found = fit(rehearsals(recording, found.depth, delay), busy, tick)
    return delay, found


def _judged(
    recording: Recording, found: Fit, delay: float, judged: Sequence[int], fitted_on: str, judged_on: str
) -> HeldOut:
    played = rehearsals(recording, found.depth, delay)[0].play(found.step)
    return HeldOut(fitted_on, judged_on, compare(recording.requests, times(played), judged))


def _kind(recording: Recording, found: Fit, delay: float, name: str, metrics: dict[str, Measure]) -> Kind:
    """What `kvroute simulate --preset FILE` takes."""
    limits = capacity(recording).limits
    c0, c1, c2, c3, c4, c5 = map(_short, found.step)
    scores = ", ".join(
        f"{key} {metrics[key].error:+.1%}" for key in ("ttft_mean", "tpot_mean", "e2e_mean") if key in metrics
    )
    return Kind(
        name=name,
        step=StepTime(c0, c1, c2, c3, c4, c5, budget=limits.max_num_batched_tokens),
        limits=limits,
        ingress=Ingress(_short(_ingress(recording, found, delay)), 0.0, 0.0),
        source=f"fitted to {len(recording.requests)} requests of {recording.name}; held out: {scores}",
    )


def _ingress(recording: Recording, found: Fit, delay: float) -> float:
    """Seconds before a request's first step beyond what an engine that waits for each step would take."""
    told = delay if recording.one_clock else Ingress().seconds
    return told + (found.step[0] if found.depth > 1 else 0.0)


def _notes(recording: Recording, found: Fit, told: dict[str, bool]) -> list[str]:
    notes = []
    unsure = [name for name, one in told.items() if not one]
    if unsure:
        notes.append(
            f"the log does not tell {', '.join(unsure)} (standard error above the value, or above what was thought"
            " before); their values lean on what is usual"
        )
    if not recording.blocks_told:
        notes.append(f"{capacity(recording).source}; give --blocks (num_gpu_blocks) where it is known")
    if not recording.one_clock:
        notes.append("arrivals are of another clock than the rest: what precedes the engine is taken as 4 ms")
    if found.depth > 1:
        seen = looks_ahead(recording.requests, recording.limits)
        how = "told" if recording.ahead else "seen from its stamps" if seen else "explains the log better"
        notes.append(
            f"the engine schedules ahead ({how}): a first token waits a step more; ingress.seconds holds c0 of it"
        )
    return notes


def _short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}") if math.isfinite(value) else value
