"""Resident memory: idle, and along ever-new prompts, which a bounded index must survive without growing."""

from __future__ import annotations

import time
from typing import Any

from bench import bodies, tools
from bench.measure import Load
from bench.process import Process

IDLE_SECONDS = 2.0
STEPS = 10
PROMPT_BYTES = 4096
SEED = 7


def curve(process: Process, port: int, load: Load, prompts: int) -> dict[str, Any]:
    """Resident bytes when idle, then after each tenth of `prompts` requests that share no block with any before."""
    time.sleep(IDLE_SECONDS)
    found: dict[str, Any] = {"idle": process.resident_bytes(), "prompt_bytes": PROMPT_BYTES, "points": [], "errors": 0}
    file = bodies.write(tools.BUILD / "fresh.jsonl", bodies.fresh(PROMPT_BYTES, 64, SEED))
    sent = 0
    for step in range(1, STEPS + 1):
        count = prompts * step // STEPS - sent
        done = load.run(port, file, ["-n", str(count), "-c", "64", "-S", "request"])
        sent += count
        found["errors"] += done["errors"]
        found["points"].append({"requests": sent, "resident": process.resident_bytes()})
    return found
