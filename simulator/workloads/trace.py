"""Requests at recorded times: the first so many, whole sessions drawn from them, cut, rescaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from kvroute.scorers.contract import Request
from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.contract import Job, Workload
from kvroute.simulator.workloads.keys import anchor
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.single import CLOSED, in_loop
from kvroute.simulator.workloads.source import Wanted

T = TypeVar("T")

SAMPLE = Option("sample", 1.0, "share of the sessions that is kept, each whole, drawn by the seed", float, 1e-9, 1)
TRUNCATE = Option("truncate", None, "tokens to which longer prompts are cut", least=1)
RATE = Option("rate", None, "requests per second on average, to which times are stretched", float, least=1e-9)
OPTIONS = (SAMPLE, TRUNCATE, RATE, *CLOSED)


class Row(msgspec.Struct, frozen=True, gc=False):
    """One recorded request."""

    at: float
    """When it came [s]."""
    tokens: int
    """Of its prompt, at least 1."""
    output_tokens: int
    """At least 1."""
    keys: Sequence[int]
    """Chained keys of its full blocks."""
    session: int
    """Requests that belong together have the same."""


def replayed(wanted: Wanted, rows: list[Row], key_tokens: int) -> Workload:
    """The rows as a workload: sorted by time (they do not depend on each other), then sampled, the first `requests` of
    them taken, cut, and rescaled."""
    options = wanted.options
    chosen = _sampled(sorted(rows, key=lambda row: row.at), options.number("sample"), wanted.seed)[: wanted.requests]
    start = chosen[0].at
    scale = _scale(wanted, chosen)
    longest = options.whole_or_none("truncate")

    def jobs() -> Iterator[Job]:
        for number, row in enumerate(chosen):
            tokens, keys = row.tokens, list(row.keys)
            if longest is not None and tokens > longest:
                tokens, keys = longest, keys[: longest // key_tokens]
            request = Request(
                str(number), "m", tokens, keys, key_tokens, None, f"s{row.session}",
                anchor(keys[0] if keys else -1 - number), 0, 1, True,
            )  # fmt: skip
            yield Job((row.at - start) * scale, request, row.output_tokens)

    return in_loop(wanted, jobs, key_tokens)


def sampled(sessions: list[T], share: float, seed: int) -> list[T]:
    """That share of them, at least one, drawn by the seed, in their own order."""
    if share >= 1:
        return sessions
    count = max(1, round(share * len(sessions)))
    kept = np.random.default_rng([seed, 3]).permutation(len(sessions))[:count].tolist()
    return [sessions[i] for i in sorted(kept)]


def _sampled(rows: list[Row], share: float, seed: int) -> list[Row]:
    if share >= 1:
        return rows
    kept = set(sampled(list(dict.fromkeys(row.session for row in rows)), share, seed))
    return [row for row in rows if row.session in kept]


def _scale(wanted: Wanted, rows: list[Row]) -> float:
    """What recorded times are multiplied by."""
    if wanted.rate is None:
        return 1 / wanted.speedup
    span = rows[-1].at - rows[0].at
    if span <= 0:
        raise WorkloadError(f"{wanted.name}: all of its {len(rows)} requests come at one moment: no rate can be set")
    return (len(rows) - 1) / span / wanted.rate / wanted.speedup
