"""Prints why a request goes where it goes: a table of seconds per replica and scorer, and a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table

from kvroute.router.control.contract import CandidateCost, Explanation, ScorerSeconds

MOST_ROWS = 20
_KNOWN = {
    "exact": "exact: its KV events tell all that is cached there",
    "recovering": "recovering: KV events are missing; what came of them, and an estimate",
    "expected": "expected: no KV events; an estimate from what was sent there",
}
_PLAIN: dict[str, Any] = {"soft_wrap": True, "markup": False, "highlight": False}


def print_explanation(answer: dict[str, Any], console: Console) -> None:
    """Print what `POST /explain` answered. Raises msgspec.ValidationError when it is something else."""
    explanation = msgspec.convert(answer, Explanation)
    shown, silent = _scorers(explanation)
    subject = f"policy {explanation.policy}, model {explanation.model}"
    console.print(f"{subject}, {explanation.prompt_tokens} prompt tokens; in seconds", **_PLAIN)
    console.print(_keyed(explanation), **_PLAIN)
    table = _table(explanation, shown)
    if not console.is_terminal:  # a pipe has no width to keep to
        table.width = max(console.width, console.measure(table, options=_unbounded(console)).maximum)
    console.print(table, crop=False, overflow="ignore")
    for line in (*_notes(explanation, shown, silent), *explanation.reasons, sentence(explanation)):
        console.print(line, **_PLAIN)


def _keyed(explanation: Explanation) -> str:
    """By which lens hits can be known, and of how much of the prompt."""
    told = explanation.lens_about or f"{explanation.lens} lens"
    return f"{told}; hits can be told up to token {explanation.keyed_tokens}"


def sentence(explanation: Explanation) -> str:
    """E.g. "replica-3 starts in 0.21 s: queue 0.05 + prefill 0.16; replica-1: queue 0.90 + prefill 0.02"."""
    chosen = [candidate for candidate in explanation.candidates if candidate.chosen]
    if not chosen:
        return "no replica can take this request"
    others = sorted((c for c in explanation.candidates if not c.chosen), key=_rank)
    said = [f"{chosen[0].name} starts in {_seconds(chosen[0].predicted_ttft)} s{_because(chosen[0])}"]
    said.extend(f"{other.name}{_because(other)}" for other in others[:1])
    return "; ".join(said)


def _because(candidate: CandidateCost) -> str:
    if any(entry.seconds is None for entry in candidate.scorers):
        return ": excluded by " + ", ".join(entry.scorer for entry in candidate.scorers if entry.seconds is None)
    parts = [f"{entry.scorer} {_seconds(entry.seconds)}" for entry in _starting(candidate)]
    if parts:
        return ": " + " + ".join(parts)
    return f": {_seconds(candidate.predicted_ttft)} s" if not candidate.chosen else ""


def _starting(candidate: CandidateCost) -> list[ScorerSeconds]:
    """The scorers that make up the time to first token, without those that add nothing worth a word."""
    return [entry for entry in candidate.scorers if entry.part == "start" and entry.seconds and entry.seconds >= 0.0005]


def _rank(candidate: CandidateCost) -> float:
    if candidate.total_seconds is not None:
        return candidate.total_seconds
    return float("inf")


def _scorers(explanation: Explanation) -> tuple[dict[str, str], list[str]]:
    """Name and part of the scorers that said something of anybody, and the names of those that did not."""
    said: dict[str, str] = {}
    all_names: dict[str, None] = {}
    for candidate in explanation.candidates:
        for entry in candidate.scorers:
            all_names[entry.scorer] = None
            if entry.seconds is None or entry.seconds >= 0.0005:
                said[entry.scorer] = entry.part
    return {name: said[name] for name in all_names if name in said}, [name for name in all_names if name not in said]


def _table(explanation: Explanation, scorers: dict[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("replica", overflow="fold")
    table.add_column("cached", justify="right")
    table.add_column("known")
    for name, part in scorers.items():
        table.add_column(name + ("*" if part == "cost" else ""), justify="right")
    table.add_column("total", justify="right")
    table.add_column("TTFT", justify="right")
    ranked = sorted(explanation.candidates, key=lambda c: (not c.chosen, _rank(c)))
    for candidate in ranked[:MOST_ROWS]:
        table.add_row(*_row(candidate, scorers), style="bold green" if candidate.chosen else None)
    return table


def _notes(explanation: Explanation, shown: dict[str, str], silent: list[str]) -> list[str]:
    notes = [note for source, note in _KNOWN.items() if any(c.knowledge == source for c in explanation.candidates)]
    if len(explanation.candidates) > MOST_ROWS:
        notes.append(f"{len(explanation.candidates) - MOST_ROWS} more replicas, each dearer than these")
    if "cost" in shown.values():
        notes.append("* falls on other requests, or later: no part of the time to first token")
    if silent:
        notes.append("0 everywhere: " + ", ".join(silent))
    return notes


def _unbounded(console: Console) -> ConsoleOptions:
    return console.options.update(width=10_000)


def _row(candidate: CandidateCost, names: Iterable[str]) -> list[str]:
    said = {entry.scorer: entry for entry in candidate.scorers}
    cells = [("> " if candidate.chosen else "  ") + candidate.name, str(candidate.hit_tokens), candidate.knowledge]
    for name in names:
        entry = said.get(name)
        if entry is None:
            cells.append("")
        elif entry.seconds is None:
            cells.append("no")
        else:
            weight = "" if entry.weight == 1.0 else f" x{entry.weight:g}"
            cells.append(_seconds(entry.seconds) + weight)
    excluded = "no" if any(entry.seconds is None for entry in candidate.scorers) else "-"
    cells.append(excluded if candidate.total_seconds is None else _seconds(candidate.total_seconds))
    cells.append(_seconds(candidate.predicted_ttft))
    return cells


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
