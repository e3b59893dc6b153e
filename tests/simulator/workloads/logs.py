"""Decision logs written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from kvroute.router.core.decided import VERSION, Began, Decided, Line, Member, Shortened
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
        "model": "m", "replica": "r0", "ended": at + 0.5, "first": at + 0.1, "decided": at, **fields,
    }  # fmt: skip
    return Decided(VERSION, f"id-{at}", at, orders=(1, 2, 3), keys=keys, **known)


def write(path: Path, *lines: Line) -> str:
    """A log of these lines, keys shortened as the router does."""
    shortened = Shortened()
    with path.open("ab") as file:
        for line in lines:
            if isinstance(line, Decided):
                shortened.shorten(line)
            file.write(msgspec.json.encode(line) + b"\n")
    return str(path)


def member(name: str, what: str = "join", state: str = "ready", order: int = 1, **fields: Any) -> Member:
    """A replica's line."""
    known: dict[str, Any] = {"models": ("m",), "capacity_tokens": 16_000.0, **fields}
    return Member(VERSION, order, 0.0, what, name, name, state, "both", 64.0, **known)  # type: ignore[arg-type]


def day(path: Path, requests: int = 60) -> str:
    """A log of two replicas: conversations of three turns each, one every quarter of a second."""
    lines: list[Line] = [began(), member("r0", order=1), member("r1", order=2)]
    for number in range(requests):
        talk, turn = number // 3, number % 3
        keys = [*range(1, 20), *(1000 * (talk + 1) + i for i in range(10 * (turn + 1)))]
        orders = (3 * number + 3, 3 * number + 4, 3 * number + 5)
        one = request(
            0.25 * number, keys, session=f"s{talk}", replica=f"r{number % 2}", prompt_tokens=16 * len(keys) + 8
        )
        one.orders, one.cached_tokens, one.hit_tokens = orders, 16 * 19 if number else 0, 16.0 * 19
        one.ended = one.at + 0.2
        lines.append(one)
    return write(path, *lines)
