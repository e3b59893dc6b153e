"""How much is sent: clients of a closed loop, a rate where the workload takes one, else how fast its time runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.case import Case, Evaluate, Source
from kvroute.simulator.search.frontier import greatest
from kvroute.simulator.workloads import options
from kvroute.simulator.workloads.options import count

Knob = Literal["rate", "speedup", "concurrency"]
NO_KNEE = "there is no knee to relate loads to: give --rates or --speedups"
UNITS: dict[str, str] = {"rate": "req/s", "speedup": "times the trace's speed", "concurrency": "clients"}


class Level(msgspec.Struct, frozen=True):
    """One load."""

    name: str
    """For people: `12 req/s`, `speedup 2`, `0.8 of the knee`."""
    rate: float | None = None
    speedup: float | None = None
    concurrency: int | None = None
    load: float | None = None
    """Share of the knee, where that was found."""

    def of(self, source: Source) -> Source:
        """That workload at this load."""
        return msgspec.structs.replace(
            source,
            spec=source.spec if self.concurrency is None else _with_clients(source.spec, self.concurrency),
            rate=source.rate if self.rate is None else self.rate,
            speedup=source.speedup if self.speedup is None else self.speedup,
        )


class Knee(msgspec.Struct, frozen=True):
    """The greatest load that is not beyond what the fleet can do."""

    knob: Knob
    at: float
    """Requests per second, speedup, or clients."""
    policy: str


def level(knob: Knob, setting: float, load: float | None = None) -> Level:
    """The level with the knob at that setting; clients are rounded to whole ones."""
    if knob == "concurrency":
        setting = max(1, round(setting))
    text = {"rate": f"{setting:g} req/s", "speedup": f"speedup {setting:g}", "concurrency": f"{setting:g} clients"}[
        knob
    ]
    name = text if load is None else f"{load:g} of the knee ({text})"
    return Level(
        name,
        rate=setting if knob == "rate" else None,
        speedup=setting if knob == "speedup" else None,
        concurrency=int(setting) if knob == "concurrency" else None,
        load=load,
    )


def knob_of(source: Source) -> Knob:
    """What this workload's load is set by."""
    if _clients(source.spec) is not None:
        return "concurrency"
    try:
        next(msgspec.structs.replace(source, rate=1.0).load().arrivals(), None)
    except WorkloadError:
        return "speedup"
    return "rate"


def beginning(source: Source, knob: Knob) -> float | None:
    """Where a search for a load begins: with what the workload has; None where it does not say, as with rates."""
    return {"rate": source.rate, "speedup": source.speedup, "concurrency": _clients(source.spec)}[knob]


def _clients(spec: str) -> float | None:
    """Clients of the closed loop that a workload's options ask for."""
    return count(options.split(spec)[1].get("concurrency", ""))


def _with_clients(spec: str, clients: int) -> str:
    head, pairs = options.split(spec)
    return ",".join([head, *(f"{name}={value}" for name, value in {**pairs, "concurrency": str(clients)}.items())])


def find_knee(source: Source, scenario: Scenario, evaluate: Evaluate, policy: str) -> Knee:
    """Where the fleet under this policy begins to be saturated.

    Where no rate was given, one run as the workload has it gives a first guess: the rate at which requests were
    completed.

    Raises:
        WorkloadError: it is saturated however little is sent, or never: closed loops and short runs may show no knee.
    """
    knob = knob_of(source)

    def cases(settings: Sequence[float]) -> list[Case]:
        return [
            Case(f"{policy} at {one.name}, looking for the knee", one.of(source), scenario)
            for one in (level(knob, setting) for setting in settings)
        ]

    guess = beginning(source, knob)
    if guess is None:
        (first,) = evaluate([Case(f"{policy}, looking for the knee", source, scenario)])
        guess = first.throughput_requests or 1.0
    found = greatest(
        lambda settings: [not run.saturated for run in evaluate(cases(settings))], guess, whole=knob == "concurrency"
    )
    if found.answer is None:
        raise WorkloadError(f"{source.spec}: the fleet is saturated however little is sent; {NO_KNEE}")
    if found.bounded:
        raise WorkloadError(
            f"{source.spec}: the fleet is not saturated however much is sent; {NO_KNEE}, or more --requests"
        )
    return Knee(knob, found.answer, policy)


def at_loads(knee: Knee, loads: Sequence[float]) -> list[Level]:
    """Levels at these shares of the knee, by ascending load."""
    return [level(knee.knob, float(f"{knee.at * load:.4g}"), load) for load in sorted(loads)]
