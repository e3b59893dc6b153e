"""The simulator: requests per CPU-second, memory, and the share that decisions take, measured on the command itself.

`python -m bench.simulation [--requests N] [--rounds N] [--mooncake PATH]`: whole processes, start and imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.goals import Goal

SEED = 1
REPLICAS = 64
RATE = 1600.0
"""Requests a second: a little over half of what 64 replicas can take."""
GENERATED = "shared-prefix,input=512,output=128"
MOONCAKE = Path(__file__).parent.parent / "../shared/data/traces/mooncake_conversation.jsonl"


@dataclass(frozen=True, slots=True)
class Cost:
    """One run of the command, as a process."""

    requests: int
    cpu_seconds: float
    wall_seconds: float
    resident_bytes: int
    """The most that it held at once."""
    said: str
    """What it printed."""

    @property
    def rate(self) -> float:
        """Requests per CPU-second."""
        return self.requests / self.cpu_seconds


def run(*arguments: str) -> Cost:
    """`kvroute simulate` with these arguments, on one core."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", "kvroute.router.cli", "simulate", *arguments, "--json", str(out)]
        core = min(os.sched_getaffinity(0))
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
        )
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
        summary = json.loads(out.read_text())["summary"]
        wall = time.perf_counter() - begun
    return Cost(summary["requests"], usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024, said)


def show(name: str, costs: list[Cost]) -> Cost:
    """A line for a case; its best round."""
    best = min(costs, key=lambda cost: cost.cpu_seconds)
    median = statistics.median(cost.cpu_seconds for cost in costs)
    print(
        f"{name:<44}{best.requests:>10,} requests {best.cpu_seconds:>7.1f} s CPU (median {median:.1f})"
        f" {best.rate:>8,.0f}/CPU-s {best.resident_bytes / 2**20:>7,.0f} MB"
    )
    for line in best.said.splitlines():
        if "decisions" in line:
            print(f"{'':<44}{line.strip()}")
    return best


def main() -> None:
    """Measure and print, with the goals that the project set itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--mooncake", type=Path, default=MOONCAKE, help="the trace's file")
    options = parser.parse_args()
    for key, value in machine.describe().items():
        print(f"{key}: {value}")
    fleet = ("--replicas", str(REPLICAS), "--rate", str(RATE), "--seed", str(SEED))
    generated = show(
        f"{GENERATED}, {REPLICAS} replicas",
        [run("--workload", GENERATED, *fleet, "--requests", str(options.requests)) for _ in range(options.rounds)],
    )
    per_million = generated.cpu_seconds * 1e6 / generated.requests
    goals = [
        Goal("1,000,000 requests on 64 replicas [s CPU]", per_million, 60.0, False),
        Goal("their memory [MB]", generated.resident_bytes / 2**20, 2000.0, False),
    ]
    if options.mooncake.exists():
        trace = ("--workload", f"mooncake:{options.mooncake}", "--replicas", "8", "--seed", str(SEED))
        mooncake = show("Mooncake conversation, 8 replicas", [run(*trace) for _ in range(max(options.rounds, 3))])
        goals.append(Goal("Mooncake conversation on 8 replicas [s CPU]", mooncake.cpu_seconds, 3.0, False))
    else:
        print(f"{options.mooncake} is not here: the trace is left out (--mooncake PATH)")
    for goal in goals:
        print(goal)


if __name__ == "__main__":
    main()
