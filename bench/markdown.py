"""A results file as the Markdown of docs/benchmarks.md: `python -m bench.markdown bench/results/DATE.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import decision, goals
from bench.cases import KIB
from bench.measure import Sample
from bench.summary import Row, by_case

COLUMNS = (
    ("1k", "1 KB, per CPU-s"),
    ("16k", "16 KB, per CPU-s"),
    ("64k", "64 KB, per CPU-s"),
    ("sse", "chunks per CPU-s"),
    ("bulk", "the same, 64 a write"),
    ("paced", "CPU-s per million paced chunks"),
    ("open", "CPU µs per request at 200/s"),
)


def lines(results: Mapping[str, Any]) -> list[str]:
    """Machine, table, memory, decision and goals."""
    made = by_case([Sample(**sample) for sample in results["samples"]])
    settings = results["settings"]
    text = [", ".join(f"{key}: {value}" for key, value in results["machine"].items()) + "."]
    text += [f"Best of {settings['rounds']} rounds of {settings['seconds']:g} s; in brackets the median.", ""]
    text += [f"{name} was skipped: {why}" for name, why in results["skipped"].items()]
    text += _table(made)
    memory = results["memory"].get("kvroute")
    if memory:
        text += ["", _memory(memory)]
    if results["decision"]:
        text += ["", "```", *decision.lines(results["decision"]), "```"]
    found = [str(goal) for goal in goals.check(made, memory, results["decision"])]
    if found:
        text += ["", "```", *found, "```"]
    return text


def _table(made: Mapping[str, Sequence[Row]]) -> list[str]:
    columns = [(name, title) for name, title in COLUMNS if name in made]
    routers = dict.fromkeys(row.router for rows in made.values() for row in rows if row.best is not None)
    titles = [title for _, title in columns] + (["added p50 / p99 ms at 200/s"] if "open" in made else [])
    table = ["| router | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for router in routers:
        cells = [_cell(_row(made[name], router)) for name, _ in columns]
        if "open" in made:
            row = _row(made["open"], router)
            cells.append("-" if row is None else f"{_ms(row.added_p50)} / {_ms(row.added_p99)}")
        table.append(f"| {router} | " + " | ".join(cells) + " |")
    return table


def _row(rows: Sequence[Row], router: str) -> Row | None:
    return next((row for row in rows if row.router == router), None)


def _cell(row: Row | None) -> str:
    if row is None or row.best is None or row.median is None:
        return "-"
    digits = 0 if row.best >= 100 else 1
    errors = f", {row.errors} errors" if row.errors else ""
    return f"{row.best:,.{digits}f} ({row.median:,.{digits}f}){errors}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f}"


def _memory(found: Mapping[str, Any]) -> str:
    points = ", ".join(f"{point['requests']:,}: {point['resident'] / 1e6:.0f}" for point in found["points"])
    size = found["prompt_bytes"] // KIB
    idle = found["idle"] / 1e6
    return f"Resident memory of kvroute: {idle:.0f} MB idle; along ever-new prompts of {size} KB [MB]: {points}."


if __name__ == "__main__":
    print("\n".join(lines(json.loads(Path(sys.argv[1]).read_text()))))
