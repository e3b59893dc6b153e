"""Azure's traces of 2023 and 2024: CSV of times and lengths. They tell nothing of prefixes, so no prompt shares any."""

from __future__ import annotations

from datetime import UTC, datetime

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.contract import Workload
from kvroute.simulator.workloads.keys import UNIQUE
from kvroute.simulator.workloads.lines import MOST_TOKENS, lines, refuse
from kvroute.simulator.workloads.source import Source, Wanted
from kvroute.simulator.workloads.trace import OPTIONS, Row, replayed

KEY_TOKENS = 64
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def make(wanted: Wanted) -> Workload:
    """The trace as a workload."""
    return replayed(wanted, read(wanted.path), KEY_TOKENS)


def read(path: str) -> list[Row]:
    """All rows, each prompt with keys of its own.

    Raises:
        WorkloadError: with file, line and reason.
    """
    rows: list[Row] = []
    fresh = UNIQUE
    places: list[int] | None = None
    for number, text in lines(path):
        cells = [cell.strip().strip('"') for cell in text.split(",")]
        if places is None:
            missing = [name for name in COLUMNS if name not in cells]
            if missing:
                refuse(path, number, f"the first line must name the columns {', '.join(COLUMNS)}; no {missing[0]}")
            places = [cells.index(name) for name in COLUMNS]
            continue
        if len(cells) <= max(places):
            refuse(path, number, f"{len(cells)} columns; {COLUMNS[-1]} is in the {max(places) + 1}th")
        try:
            at = _seconds(cells[places[0]])
        except (ValueError, OverflowError):
            refuse(path, number, f"TIMESTAMP {cells[places[0]]!r} is no date and time")
        tokens, output = (_count(path, number, name, cells[place]) for name, place in _lengths(places))
        if tokens < 1:
            refuse(path, number, "ContextTokens is 0: a prompt has at least one token")
        keys = range(fresh, fresh + tokens // KEY_TOKENS)
        fresh = keys.stop
        rows.append(Row(at, tokens, max(1, output), keys, len(rows)))
    if not rows:
        raise WorkloadError(f"{path}: only the names of columns, no requests")
    return rows


def _lengths(places: list[int]) -> list[tuple[str, int]]:
    return list(zip(COLUMNS[1:], places[1:], strict=True))


def _count(path: str, number: int, name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12) or int(text) > MOST_TOKENS:
        refuse(path, number, f"{name} {text!r} is no number of tokens")
    return int(text)


def _seconds(text: str) -> float:
    """Since 1970, to the microsecond. Times without a zone are all taken to be of the same one."""
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


SOURCE = Source("Azure's traces of requests, CSV; prompts share nothing", OPTIONS, make)
