"""The recorded exchanges with the real engine, where they are present."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

CAPTURES = Path(__file__).parents[3] / "shared" / "data" / "vllm_captures"


@cache
def _read() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    request: dict[str, Any] = {}
    for line in (CAPTURES / "http_surface.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "request":
            request = entry
        elif entry["kind"] == "response":
            found[request["name"]] = (request, entry)
    return found


def exchanges() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Name -> (request, response); skips the test where the recordings are not."""
    if not (CAPTURES / "http_surface.jsonl").exists():
        pytest.skip("the recorded engine exchanges are not here (../shared/data/vllm_captures)")
    return _read()
