"""Makes the presets from measured points: `python -m kvroute.simulator.latency.building CSV [OUT]`.

What it writes is `presets.json` beside this file; what it prints is how far each fit may be trusted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.fitted import Errors, Fitted, fit
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.measured import Group, read

HERE = Path(__file__).with_name("presets.json")


def build(groups: Sequence[Group]) -> list[Fitted]:
    """One fit a name: of several versions of the engine, the one with the most points."""
    best: dict[str, Fitted] = {}
    for group in groups:
        fitted = fit(group)
        if fitted and (group.name not in best or fitted.unseen.points >= best[group.name].unseen.points):
            best[group.name] = fitted
    return [best[name] for name in sorted(best)]


def write(fits: Sequence[Fitted], path: Path) -> None:
    """As `presets.py` reads it: what was fitted, and no defaults."""
    told = [_told(fitted.kind, Kind()) for fitted in fits]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")


def _told(struct: msgspec.Struct, default: msgspec.Struct) -> dict[str, object]:
    told: dict[str, object] = {}
    for field in struct.__struct_fields__:
        value, otherwise = getattr(struct, field), getattr(default, field)
        if isinstance(value, msgspec.Struct):
            told[field] = _told(value, otherwise)
        elif value != otherwise:
            told[field] = value
    return told


def row(name: str, errors: Errors) -> str:
    """One line for people."""
    return (
        f"{name:34} {errors.points:6} {errors.tpot_median:8.1%} {errors.tpot_p90:8.1%}"
        f" {errors.ttft_median:8.1%} {errors.ttft_p90:8.1%}"
    )


def main(arguments: Sequence[str]) -> int:
    """Fit, write, print."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m kvroute.simulator.latency.building CSV [OUT]\n")
        return 2
    try:
        fits = build(read(arguments[0]))
    except FleetError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    write(fits, Path(arguments[1]) if len(arguments) > 1 else HERE)
    sys.stdout.write(f"{'hold-out errors':34} points TPOT p50      p90 TTFT p50      p90\n")
    for fitted in fits:
        sys.stdout.write(row(fitted.kind.name, fitted.unseen) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
