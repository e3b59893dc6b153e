"""Outcomes made by hand, as a run would give them: a first-come-first-served queue, or rows as they are stated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvroute.scorers.plugins import PolicySpec
from kvroute.simulator.engine.totals import Totals
from kvroute.simulator.latency.kind import Ingress, Kind
from kvroute.simulator.runs.outcome import Gaps, Outcome, Requests, Sample
from kvroute.simulator.runs.scenario import Scenario

NOWHERE = Kind(name="test", ingress=Ingress(0.0, 0.0, 0.0))
"""A kind without ingress: what is sent is at the engine at once."""


def scenario(replicas: int = 1, policy: str = "latency", kind: Kind = NOWHERE) -> Scenario:
    """A fleet of equal replicas."""
    return Scenario(replicas=(kind,) * replicas, policy=PolicySpec(policy))


def outcome(
    rows: Sequence[tuple[float, float | None, float | None, float | None]],
    *,
    replica: Sequence[int] | None = None,
    prefill: int | Sequence[int] = -1,
    prompt: int | Sequence[int] = 100,
    output: int | Sequence[int] = 11,
    cached: int | Sequence[int] = 0,
    preemptions: int | Sequence[int] = 0,
    replicas: int = 1,
    samples: Sequence[Sample] = (),
    refused: int = 0,
) -> Outcome:
    """From (sent, scheduled, first token, last token) of each request [s]; None: it did not happen."""
    requests, count = Requests(), len(rows)
    nan = float("nan")
    for row in rows:
        sent, scheduled, first, ended = (nan if one is None else one for one in row)
        requests.at.append(sent)
        requests.scheduled.append(scheduled)
        requests.first.append(first)
        requests.ended.append(ended)
        requests.predicted.append(0.1)

    def column(value: int | Sequence[int]) -> list[int]:
        return [value] * count if isinstance(value, int) else list(value)

    requests.prompt.extend(column(prompt))
    requests.output.extend(column(output))
    requests.cached.extend(column(cached))
    requests.hit.extend(column(cached))
    requests.best_hit.extend(column(cached))
    requests.preemptions.extend(column(preemptions))
    requests.replica.extend(column(0 if replica is None else replica))
    requests.prefill.extend(column(prefill))
    ends = [row[3] for row in rows if row[3] is not None]
    return Outcome(
        workload="made by hand",
        key_tokens=16,
        names=[f"replica-{number}" for number in range(replicas)],
        requests=requests,
        samples=list(samples),
        totals=[Totals() for _ in range(replicas)],
        gaps=Gaps(),
        reusable_tokens=sum(column(cached)),
        refused=refused,
        unfinished=count - len(ends) - refused,
        seconds=max(ends, default=0.0),
        decision_seconds=1.25,
        cpu_seconds=2.5,
    )


def queue(rho: float, count: int, seed: int, *, replicas: int = 1, service: float = 1.0, fixed: bool = True) -> Outcome:
    """M/D/1 (or M/M/1) queues side by side, each request sent to the next replica in turn.

    Args:
        rho: rate of arrivals over rate of service.
        service: time of one request in service, all of it before its first token [s].
        fixed: False: times of service are exponential.
    """
    rng = np.random.default_rng(seed)
    sent = np.cumsum(rng.exponential(service / rho / replicas, count)).tolist()
    times = ([service] * count) if fixed else rng.exponential(service, count).tolist()
    free = [0.0] * replicas
    rows: list[tuple[float, float | None, float | None, float | None]] = []
    for number, (at, taken) in enumerate(zip(sent, times, strict=True)):
        one = number % replicas
        begun = max(at, free[one])
        free[one] = begun + taken
        rows.append((at, begun, begun + taken, begun + taken))
    chosen = [number % replicas for number in range(count)]
    return outcome(rows, replica=chosen, output=1, replicas=replicas)
