"""The real traces, where they are present, and small ones written for a test."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

TRACES = Path(__file__).parents[4] / "shared" / "data" / "traces"


def trace(name: str) -> Path:
    """Path of a real trace; skips the test where the traces are not."""
    path = TRACES / name
    if not path.exists():
        pytest.skip(f"the trace {name} is not here (../shared/data/traces)")
    return path


def written(path: Path, rows: list[Any]) -> Path:
    """A file of one JSON value a line; packed where its name ends in gz."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
