"""The same seed gives the same bytes, whatever the hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import hashlib
from kvroute.simulator.workloads.naming import GENERATORS, parse
from kvroute.simulator.workloads.walk import walk
digest = hashlib.sha256()
for spec in (*GENERATORS, "mixture,concurrency=9", "chat,concurrency=5", "shared-prefix,adapters=3,arrivals=gamma"):
    for job in walk(parse(spec, seed=7, requests=150)):
        digest.update(repr((job.at, job.request, job.output_tokens, list(job.answer_keys))).encode())
print(digest.hexdigest())
"""


def test_hash_seeds_change_nothing() -> None:
    """Two processes with different hash seeds print the same digest of all jobs."""
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        found.add(done.stdout)
    assert len(found) == 1
