"""Sets the roofline's efficiencies from measured points: `python -m kvroute.simulator.latency.tuning CSV`.

Each model is judged with efficiencies that were set without it; what it prints last, set with all, is what
`roofline.py` holds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import msgspec

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.building import row
from kvroute.simulator.latency.fitted import errors, predict
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.measured import Group, Point, read
from kvroute.simulator.latency.models import CONFIGS
from kvroute.simulator.latency.roofline import Efficiency, roofline

RANGES = {
    "compute": (0.3, 0.8),
    "memory": (0.5, 0.95),
    "cache": (0.5, 0.95),
    "attention": (0.25, 0.6),
    "experts": (0.2, 1.0),
    "launch": (0.5e-3, 5e-3),
    "layer": (5e-6, 60e-6),
    "routing": (5e-6, 200e-6),
    "reduction": (3e-6, 30e-6),
    "link": (0.2, 0.9),
    "sequence": (5e-6, 100e-6),
    "reply": (1e-3, 30e-3),
}
"""What is believable."""


def promised(group: Group, efficiency: Efficiency) -> Kind:
    """What the roofline says of a group's replica."""
    return roofline(
        CONFIGS[group.model],
        group.gpu,
        tp=group.tp,
        precision=group.precision,
        kv_bytes=group.kv_bytes,
        limits=Limits(max_num_batched_tokens=group.budget),
        efficiency=efficiency,
    )


def judged(group: Group, efficiency: Efficiency) -> list[tuple[tuple[float, float], Point]]:
    """Predicted TTFT and TPOT beside each point that is not about a full cache."""
    kind = promised(group, efficiency)
    return [(predict(kind, group, point), point) for point in group.points if not group.crowded(point)]


def loss(groups: Sequence[Group], efficiency: Efficiency) -> float:
    """Mean over groups of |log| of the factor off, TPOT weighing twice as much as TTFT."""
    means = []
    for group in groups:
        pairs = judged(group, efficiency)
        off = math.fsum(
            abs(math.log(guess[0] / point.ttft)) + 2 * abs(math.log(guess[1] / point.tpot)) for guess, point in pairs
        )
        means.append(off / len(pairs))
    return math.fsum(means) / len(means)


def tune(groups: Sequence[Group]) -> Efficiency:
    """The efficiencies within `RANGES` that no single change of 3 % improves on."""
    best = Efficiency(**{name: math.sqrt(low * high) for name, (low, high) in RANGES.items()})
    least, factor = loss(groups, best), 1.6
    while factor > 1.03:
        moved = False
        for name, (low, high) in RANGES.items():
            for change in (factor, 1 / factor):
                tried = min(high, max(low, getattr(best, name) * change))
                other = msgspec.structs.replace(best, **{name: tried})
                found = loss(groups, other)
                if found < least - 1e-9:
                    best, least, moved = other, found, True
        if not moved:
            factor = math.sqrt(factor)
    return best


def main(arguments: Sequence[str]) -> int:
    """Tune, judge, print."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m kvroute.simulator.latency.tuning CSV\n")
        return 2
    try:
        groups = [group for group in read(arguments[0]) if len(group.points) >= 5]
    except FleetError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{'the model was not tuned on':34} points TPOT p50      p90 TTFT p50      p90\n")
    everything: dict[bool, list[tuple[tuple[float, float], Point]]] = {False: [], True: []}
    for model in sorted({group.model for group in groups}):
        own = [group for group in groups if group.model == model]
        without = tune([group for group in groups if group.model != model])
        pairs = [pair for group in own for pair in judged(group, without)]
        everything[own[0].sizes.experts > 0] += pairs
        sys.stdout.write(row(model, errors(pairs)) + "\n")
    sys.stdout.write(row("all dense models", errors(everything[False])) + "\n")
    sys.stdout.write(row("all mixtures of experts", errors(everything[True])) + "\n")
    sys.stdout.write("set with all:\n")
    for name, value in msgspec.structs.asdict(tune(groups)).items():
        sys.stdout.write(f"    {name}: {value:.3g}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
