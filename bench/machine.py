"""What a figure was measured on: processor, kernel, versions, date, and which core does what."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path


def cores() -> tuple[int, list[int]]:
    """The core for the router, and those for backend and load (the same one where there is only one)."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1:] or allowed


def describe() -> dict[str, str]:
    """The machine in words, for the table and the JSON."""
    router, others = cores()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": f"{len(os.sched_getaffinity(0))} (router on {router}, backend and load on {_list(others)})",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load average at start": f"{os.getloadavg()[0]:.2f}",
        "revision": _revision(),
    }


def _list(others: list[int]) -> str:
    return ", ".join(str(core) for core in others[:2])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _revision() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return asked.stdout.strip() or "unknown"
