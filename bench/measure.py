"""One measured slot: load through one router, and what the router used for it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine, tools
from bench.cases import Case, Figure
from bench.process import Process

SETTLE_SECONDS = 0.3
"""After a thaw: closed connections are noticed and health checks caught up before anything counts."""
WARM_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """What one slot showed. Times in seconds; `cpu` is None where there is no router."""

    case: str
    router: str
    round: int
    requests: int
    errors: int
    statuses: dict[str, int]
    events: int
    wall: float
    cpu: float | None
    resident: int | None
    """Bytes, at the slot's end."""
    p50: float
    p90: float
    p99: float

    def figure(self, figure: Figure) -> float | None:
        """The case's own figure, in the unit it names; None where it cannot be told."""
        done = self.events if figure in (Figure.CHUNKS, Figure.CHUNK_COST) else self.requests
        if not self.cpu or not done:
            return None
        if figure in (Figure.REQUESTS, Figure.CHUNKS):
            return done / self.cpu
        return self.cpu / done * 1e6

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


class Load:
    """The load generator, whose prompts are new in every slot."""

    def __init__(self) -> None:
        self.program = tools.build("load")
        self.slot = 0

    def run(self, port: int, bodies: Path, options: Sequence[str]) -> dict[str, Any]:
        """One run of it; its JSON."""
        self.slot += 1
        command = [str(self.program), "-p", str(port), "-f", str(bodies), *options]
        command += ["-o", str(self.slot << 32), "-s", str(self.slot)]
        core = machine.cores()[1][-1]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def measure(
    load: Load, case: Case, bodies: Path, router: Process | None, name: str, port: int, round_: int, seconds: float
) -> Sample:
    """Thaw the router, warm it, load it for `seconds`, freeze it again."""
    if router is not None:
        router.thaw()
    time.sleep(SETTLE_SECONDS)
    options = case.load_options()
    load.run(port, bodies, [*options, "-t", str(min(WARM_SECONDS, seconds))])
    before = router.cpu_seconds() if router else 0.0
    found = load.run(port, bodies, [*options, "-t", str(seconds)])
    cpu = router.cpu_seconds() - before if router else None
    resident = router.resident_bytes() if router else None
    if router is not None:
        router.freeze()
    latency = found["latency"]
    return Sample(
        case.name,
        name,
        round_,
        found["requests"],
        found["errors"],
        found["statuses"],
        found["events"],
        found["seconds"],
        cpu,
        resident,
        latency.get("p50", 0.0),
        latency.get("p90", 0.0),
        latency.get("p99", 0.0),
    )
