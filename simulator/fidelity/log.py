"""Logs to calibrate from: one line a request, of an engine or of this router."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kvroute.router.core.decided import Decided
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.fidelity.recording import (
    FidelityError,
    Recording,
    Timed,
    align,
    one_clock,
    plain,
    read,
    read_lines,
)
from kvroute.simulator.workloads.decisions import records

MOST = 1000
"""Requests of one replica that tell enough."""


def is_decision_log(path: Path) -> bool:
    """Whether it is a router's: those begin with a line that says so."""
    try:
        with path.open("rb") as file:
            return b'"line"' in file.readline(4096) or path.suffix == ".gz"
    except OSError as error:
        raise FidelityError(f"{path}: {error.strerror}") from error


def read_log(path: Path, limits: Limits, *, told: bool, ahead: bool | None, most: int = MOST) -> list[Recording]:
    """The log, a recording for each replica, the one with the most requests first.

    Args:
        path: the log.
        limits: the engine's.
        told: whether `limits.blocks` is known.
        ahead: whether the engine schedules ahead; None: unknown.
        most: requests of each replica that are looked at, the first ones.

    Raises:
        SimulatorError: file, line, reason.
    """
    if is_decision_log(path):
        return [_cut(one, most) for one in _of_router(path, limits, told, ahead)]
    if (path.parent / "meta.json").is_file() and path.name == "requests.jsonl":
        found = read(path.parent, path.parent)
        return [_cut(found if ahead is None else msgspec.structs.replace(found, ahead=ahead), most)]
    lines = [line for _, line in read_lines(path)]
    kept = [line for line in lines if line.first_token_ts is not None and line.last_token_ts is not None]
    notes = [f"{len(lines) - len(kept)} requests without first or last token are left out"] * (len(kept) < len(lines))
    timed = align(path, kept)
    found = _recording(path.stem, timed, limits, told, ahead, notes)
    if all(line.cached_toks is not None for line in kept):
        ordered = sorted(kept, key=lambda line: line.arrival_time)
        found = msgspec.structs.replace(found, cached=[line.cached_toks or 0 for line in ordered])
    else:
        notes.append("no cached_toks in the log: every prompt is taken to have been computed whole")
    return [_cut(msgspec.structs.replace(found, one_clock=one_clock(kept)), most)]


def _cut(found: Recording, most: int) -> Recording:
    """Its first requests."""
    count = len(found.requests)
    if count <= most:
        return found
    return msgspec.structs.replace(
        found,
        requests=found.requests[:most],
        asked=found.asked[:most],
        cached=None if found.cached is None else found.cached[:most],
        notes=[*found.notes, f"the first {most} of {count} requests are looked at"],
    )


def _of_router(path: Path, limits: Limits, told: bool, ahead: bool | None) -> list[Recording]:
    """What each replica was sent: streamed, completed, alone in its request."""
    by_replica: dict[str, list[Decided]] = {}
    left = 0
    for one in records(str(path)):
        useful = one.outcome == "completed" and one.first is not None and one.status < 400 and one.sequences == 1
        if useful and one.output_tokens and (one.prompt_tokens or one.tokens):
            by_replica.setdefault(one.replica, []).append(one)
        elif one.replica:
            left += 1
    found = []
    for name, own in by_replica.items():
        own.sort(key=lambda one: (one.decided, one.orders))
        start = own[0].decided
        timed = [_timed(one, start) for one in own]
        notes = [f"{left} requests of the log are left out: not completed, not streamed, or without token counts"] * (
            left > 0
        )
        recording = _recording(name, timed, limits, told, ahead, notes)
        cached = [round(one.cached_tokens if one.cached_tokens is not None else one.hit_tokens) for one in own]
        found.append(msgspec.structs.replace(recording, cached=cached, one_clock=True, model=own[0].model))
    if not found:
        raise FidelityError(
            f"{path}: no request that was streamed, completed, and whose tokens the engine counted"
            " (usage in streams needs include_usage)"
        )
    return sorted(found, key=lambda recording: (-len(recording.requests), recording.name))


def _timed(one: Decided, start: float) -> Timed:
    first = one.first if one.first is not None else one.ended
    return Timed(
        one.id,
        one.prompt_tokens or one.tokens,
        one.output_tokens or 1,
        one.decided - start,
        first - start,
        max(first, one.ended) - start,
    )


def _recording(
    name: str, timed: list[Timed], limits: Limits, told: bool, ahead: bool | None, notes: list[str]
) -> Recording:
    asked: list[EngineRequest] = plain(timed)
    return Recording(name, "", "", 1, limits, told, ahead, timed, asked, [], {}, notes)
