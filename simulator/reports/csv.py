"""One line a request, for those who want to look closer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from kvroute.simulator.reports.columns import Columns
from kvroute.simulator.runs.outcome import Outcome
from kvroute.simulator.runs.scenario import Scenario

HEADER = (
    "request", "replica", "prefill_replica", "sent_s", "scheduled_s", "first_token_s", "last_token_s", "queue_s",
    "ttft_s", "tpot_s", "e2e_s", "predicted_ttft_s", "prompt_tokens", "output_tokens", "cached_tokens",
    "believed_tokens", "best_believed_tokens", "preemptions",
)  # fmt: skip
"""Moments are since the start of the run, in seconds; an empty cell: it did not happen. `prefill_replica` is
named where another one prefilled."""


def lines(outcome: Outcome, scenario: Scenario) -> Iterator[str]:
    """The header and each request's line, with its newline; times to the microsecond."""
    columns, rows = Columns(outcome, scenario), outcome.requests
    names = [*(_quoted(name) for name in outcome.names), ""]
    yield ",".join(HEADER) + "\n"
    table = zip(
        range(len(rows)), rows.replica, rows.prefill, rows.at, rows.scheduled, rows.first, rows.ended,
        columns.queue.tolist(), columns.ttft.tolist(), columns.tpot.tolist(), columns.e2e.tolist(), rows.predicted,
        rows.prompt, rows.output, rows.cached, rows.hit, rows.best_hit, rows.preemptions, strict=True,
    )  # fmt: skip
    for number, replica, prefill, *cells in table:
        yield f"{number},{names[replica]},{names[prefill]},{','.join(map(_cell, cells))}\n"


def write_lines(file: TextIO, outcome: Outcome, scenario: Scenario) -> None:
    """The same into a file."""
    file.writelines(lines(outcome, scenario))


def _cell(value: float | int) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.6f}" if value == value else ""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n') else name
