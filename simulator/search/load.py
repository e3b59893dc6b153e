"""How much is sent: a rate where the workload takes one, else how fast its time runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.case import Case, Evaluate, Source
from kvroute.simulator.search.frontier import greatest

Knob = Literal["rate", "speedup"]


class Level(msgspec.Struct, frozen=True):
    """One load."""

    name: str
    """For people: `12 req/s`, `speedup 2`, `0.8 of the knee`."""
    rate: float | None = None
    speedup: float | None = None
    load: float | None = None
    """Share of the knee, where that was found."""

    def of(self, source: Source) -> Source:
        """That workload at this load."""
        return msgspec.structs.replace(
            source,
            rate=source.rate if self.rate is None else self.rate,
            speedup=source.speedup if self.speedup is None else self.speedup,
        )


class Knee(msgspec.Struct, frozen=True):
    """The greatest load that is not beyond what the fleet can do."""

    knob: Knob
    at: float
    """Requests per second, or speedup."""
    policy: str
    bounded: bool
    """No load tried was too much: the knee lies higher."""


def level(knob: Knob, setting: float, load: float | None = None) -> Level:
    """The level with the knob at that setting."""
    text = f"{setting:g} req/s" if knob == "rate" else f"speedup {setting:g}"
    name = text if load is None else f"{load:g} of the knee ({text})"
    return Level(name, setting if knob == "rate" else None, setting if knob == "speedup" else None, load)


def knob_of(source: Source) -> Knob:
    """What this workload's load is set by: closed loops take no rate."""
    try:
        next(msgspec.structs.replace(source, rate=1.0).load().arrivals(), None)
    except WorkloadError:
        return "speedup"
    return "rate"


def find_knee(source: Source, scenario: Scenario, evaluate: Evaluate, policy: str) -> Knee:
    """Where the fleet under this policy begins to be saturated.

    One run at the workload's own load gives a first guess: the rate at which requests were completed.

    Raises:
        WorkloadError: it is saturated however little is sent.
    """
    knob = knob_of(source)

    def cases(settings: Sequence[float]) -> list[Case]:
        return [
            Case(f"{policy} at {one.name}, looking for the knee", one.of(source), scenario)
            for one in (level(knob, setting) for setting in settings)
        ]

    guess = source.speedup
    if knob == "rate":
        (first,) = evaluate([Case(f"{policy}, looking for the knee", source, scenario)])
        guess = first.throughput_requests or 1.0
    found = greatest(lambda settings: [not run.saturated for run in evaluate(cases(settings))], guess)
    if found.answer is None:
        raise WorkloadError(
            f"{source.spec}: the fleet is saturated however little is sent; there is no knee to relate to"
        )
    return Knee(knob, found.answer, policy, found.bounded)


def at_loads(knee: Knee, loads: Sequence[float]) -> list[Level]:
    """Levels at these shares of the knee, by ascending load."""
    return [level(knee.knob, float(f"{knee.at * load:.4g}"), load) for load in sorted(loads)]
