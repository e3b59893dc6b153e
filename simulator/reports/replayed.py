"""What was measured beside what is simulated of the same requests: a prediction, and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvroute.router.core.decided import Decided
from kvroute.simulator.reports.distribution import Distribution, Quantiles
from kvroute.simulator.reports.units import digits, percent, time
from kvroute.simulator.runs.outcome import Outcome

TRUSTED = 0.2
"""A figure that the simulator gets right to this share is said to be close."""


class Figures(msgspec.Struct, frozen=True):
    """Of the same requests whether measured or simulated: those for which the log tells the figure."""

    requests: int
    """Completed."""
    ttft: Distribution | None
    """Streams [s]."""
    tpot: Distribution | None
    """(last - first token) / (output tokens - 1), of streams that told their output tokens [s]."""
    e2e: Distribution | None
    """[s]"""
    cached_token_rate: float | None
    """Share of prompt tokens that engines found in their caches, of requests whose reply told [0..1]."""
    believed_token_rate: float
    """Share that the router believed to be there [0..1]."""
    busiest: float
    """Requests of the replica that had most of them / mean."""


class Timed(NamedTuple):
    """One request's times and counts, from the log or from a run; NaN: not known."""

    ttft: float
    e2e: float
    prompt: int
    output: int
    cached: float
    hit: float
    replica: str


def measured(records: Sequence[Decided], told: Sequence[bool] | None = None) -> Figures:
    """What the log tells. Prompt lengths are those that were taken for the simulation; `told`: whether each record's
    output tokens are the engine's own (None: all are), for no pace can be told from an assumed one."""
    rows = [_of_record(one) for one in records]
    if told is not None:
        rows = [row if known else row._replace(output=0) for row, known in zip(rows, told, strict=True)]
    return _figures(records, rows, len({one.replica for one in records if one.replica}))


def simulated(records: Sequence[Decided], outcome: Outcome, ids: Sequence[str]) -> Figures:
    """The same figures of a run. `ids`: which record each of the outcome's rows is, by its index."""
    rows = outcome.requests
    found: list[Timed] = [Timed(*(math.nan,) * 2, 0, 0, *(math.nan,) * 2, "")] * len(records)
    for row, name in enumerate(ids[: len(rows)]):
        at, ended = rows.at[row], rows.ended[row]
        replica = outcome.names[rows.replica[row]] if rows.replica[row] >= 0 else ""
        found[int(name)] = Timed(
            rows.first[row] - at, ended - at, rows.prompt[row], rows.output[row], rows.cached[row], rows.hit[row],
            replica,
        )  # fmt: skip
    return _figures(records, found, len(outcome.names))


def _of_record(one: Decided) -> Timed:
    first = math.nan if one.first is None else one.first - one.at
    cached = math.nan if one.cached_tokens is None else one.cached_tokens
    return Timed(first, one.ended - one.at, one.tokens, one.output_tokens or 0, cached, one.hit_tokens, one.replica)


def _figures(records: Sequence[Decided], rows: Sequence[Timed], replicas: int) -> Figures:
    pairs = [
        (record, row)
        for record, row in zip(records, rows, strict=True)
        if record.outcome == "completed" and not math.isnan(row.e2e)
    ]
    streams = [row for record, row in pairs if record.first is not None]
    told = [row for record, row in pairs if record.cached_tokens is not None]
    paced = [(row.e2e - row.ttft) / (row.output - 1) for row in streams if row.output > 1]
    counts: dict[str, int] = {}
    for row in rows:
        if row.replica:
            counts[row.replica] = counts.get(row.replica, 0) + 1
    return Figures(
        requests=len(pairs),
        ttft=_distribution([row.ttft for row in streams]),
        tpot=_distribution(paced),
        e2e=_distribution([row.e2e for _, row in pairs]),
        cached_token_rate=_share(told, lambda row: row.cached) if told else None,
        believed_token_rate=_share([row for _, row in pairs], lambda row: row.hit),
        busiest=max(counts.values()) * replicas / sum(counts.values()) if counts else 1.0,
    )


def _share(rows: Sequence[Timed], tokens: Callable[[Timed], float]) -> float:
    whole = sum(row.prompt for row in rows)
    return math.fsum(map(tokens, rows)) / whole if whole else 0.0


def _distribution(values: list[float]) -> Distribution | None:
    return Quantiles(np.array(values, dtype=np.float64)).distribution()


# --- side by side ---


class Line(NamedTuple):
    """One figure: how it is called, how it is found, how it is written."""

    name: str
    read: Callable[[Figures], float | None]
    show: Callable[[float], str]
    relative: bool = True
    """Differences are told as a share of it; else in points of a hundred."""


def _statistic(metric: str, statistic: str) -> Callable[[Figures], float | None]:
    def read(figures: Figures) -> float | None:
        found: Distribution | None = getattr(figures, metric)
        return None if found is None else getattr(found, statistic)

    return read


LINES = (
    *(Line(f"{label} {name}", _statistic(metric, name), time)
      for label, metric, names in (
          ("TTFT", "ttft", ("mean", "p50", "p90", "p99")), ("TPOT", "tpot", ("mean", "p90")),
          ("E2E", "e2e", ("mean", "p90")),
      )
      for name in names),
    Line("cached", lambda figures: figures.cached_token_rate, percent, relative=False),
    Line("believed cached", lambda figures: figures.believed_token_rate, percent, relative=False),
    Line("busiest / mean", lambda figures: figures.busiest, digits),
)  # fmt: skip


def differences(one: Figures, other: Figures) -> dict[str, float | None]:
    """How far `other` is from `one`, by figure: as a share of it, or of shares their difference."""
    return {line.name: _difference(line, one, other) for line in LINES}


def _lengths_assumed(real: Figures, other: Figures) -> bool:
    """Whether measured answers have lengths that the log does not tell: none of their streams has a pace, though it
    has one where it is simulated. Whole times are then those of other answers."""
    return real.tpot is None and other.tpot is not None


def _difference(line: Line, one: Figures, other: Figures) -> float | None:
    before, after = line.read(one), line.read(other)
    if line.name.startswith("E2E") and _lengths_assumed(one, other):
        return None
    if before is None or after is None or (line.relative and before == 0.0):
        return None
    return after / before - 1.0 if line.relative else after - before


def table(real: Figures, control: Figures, changed: Figures | None, names: tuple[str, str]) -> RenderableType:
    """Measured, simulated as it was, and simulated otherwise. `names`: what ran then, and what would run."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("", no_wrap=True)
    heads = ["measured", f"simulated:\n{names[0]}", "off by"]
    for head in heads if changed is None else [*heads, f"simulated:\n{names[1]}", "change"]:
        shown.add_column(head, justify="right", overflow="fold")
    for line in LINES:
        cells = [_cell(line, real), _cell(line, control), _told(line, real, control)]
        if changed is not None:
            cells += [_cell(line, changed), _told(line, control, changed)]
        shown.add_row(line.name, *cells)
    return Group(shown, trust(real, control))


def _cell(line: Line, figures: Figures) -> str:
    value = line.read(figures)
    return "-" if value is None else line.show(value)


def _told(line: Line, one: Figures, other: Figures) -> str:
    found = _difference(line, one, other)
    if found is None:
        return "-"
    return f"{100 * found:+.0f} %" if line.relative else f"{100 * found:+.1f} pt"


def trust(real: Figures, control: Figures) -> Text:
    """How far to believe what is simulated, in a sentence."""
    found = {
        line.name: _difference(line, real, control)
        for line in LINES
        if line.name in ("TTFT mean", "TPOT mean", "E2E mean")
    }
    known = {name: abs(value) for name, value in found.items() if value is not None}
    if _lengths_assumed(real, control):
        worst = (
            f": TTFT mean is {100 * known['TTFT mean']:.0f} % from what was measured" if "TTFT mean" in known else ""
        )
        return Text(
            f"The log does not tell output tokens, so they are assumed, and TPOT and E2E cannot be held to it{worst}."
            " Engines tell them where clients send stream_options.include_usage, or are started with"
            " --enable-force-include-usage.",
            style="yellow",
        )
    if not known:
        return Text("The log tells no times to hold the simulation to.", style="yellow")
    worst = max(known, key=lambda name: known[name])
    said = f"Simulated as it was, {worst} is {100 * known[worst]:.0f} % from what was measured"
    if known[worst] <= TRUSTED:
        return Text(f"{said}, and all other means closer: changes larger than that mean something.", style="green")
    return Text(
        f"{said}: look at changes, not at times. Fit a kind to this log (kvroute calibrate LOG --out KIND.yaml) and"
        " give it as --preset KIND.yaml to bring the two together.",
        style="yellow",
    )
