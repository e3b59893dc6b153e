"""What the real engine rendered for many bodies and templates, kept in a file (see tests/vllm/rendering.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("goldens.jsonl")


def goldens() -> list[dict[str, Any]]:
    """`style` (a template's name), `path`, `body`, and `text`: that of the engine's first prompt."""
    return [json.loads(line) for line in FILE.read_text().splitlines()]
