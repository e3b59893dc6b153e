"""Decision logs written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from kvroute.router.core.decided import VERSION, Began, Decided, Line, Shortened
from kvroute.router.core.steptime import StepTime
from kvroute.scorers.plugins import PolicySpec


def began(wall: float = 1000.0, clock: float = 0.0) -> Began:
    """A file's first line."""
    return Began(VERSION, "0", wall, clock, 0, PolicySpec("latency"), 0, StepTime(), (0.0, 0.0, 0.0), 512)


def request(at: float, keys: Iterable[int] = (), **fields: Any) -> Decided:
    """A request that was answered half a second later, of 16 tokens a key and 8 more."""
    keys = list(keys)
    known: dict[str, Any] = {
        "outcome": "completed", "status": 200, "tokens": 16 * len(keys) + 8, "output_tokens": 10, "stream": True,
        "model": "m", "replica": "r0", "ended": at + 0.5, "first": at + 0.1, **fields,
    }  # fmt: skip
    return Decided(VERSION, f"id-{at}", at, at, orders=(1, 2, 3), keys=keys, **known)


def write(path: Path, *lines: Line) -> str:
    """A log of these lines, keys shortened as the router does."""
    shortened = Shortened()
    with path.open("ab") as file:
        for line in lines:
            if isinstance(line, Decided):
                shortened.shorten(line)
            file.write(msgspec.json.encode(line) + b"\n")
    return str(path)
