"""Decision logs as tests read and write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from kvroute.router.control.decisions import DecisionLog
from kvroute.router.core.decided import VERSION, Began, Decided, Line, Restored
from kvroute.router.core.steptime import StepTime
from kvroute.scorers.contract import Request
from kvroute.scorers.plugins import PolicySpec

DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def began(wall: float, clock: float, order: int) -> Began:
    """A file's first line."""
    return Began(VERSION, "0", wall, clock, order, PolicySpec("latency"), 0, StepTime(), (0.0, 0.0, 0.0), 512)


def lines(path: Path) -> list[Line]:
    """What a log holds, keys restored."""
    found = [DECODER.decode(text) for text in path.read_bytes().splitlines()]
    restored = Restored()
    for line in found:
        if isinstance(line, Began):
            restored = Restored()
        elif isinstance(line, Decided):
            restored.restore(line)
    return found


def requests(found: Sequence[Line]) -> list[Decided]:
    """The requests among them."""
    return [line for line in found if isinstance(line, Decided)]


async def written(log: DecisionLog, refused: Sequence[Request]) -> None:
    """A log's whole life."""
    log.start()
    for request in refused:
        log.refused(request, 1.0)
    await log.close()
