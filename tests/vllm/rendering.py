"""Bodies for which the real engine's rendering is asked, and how it is asked.

python -m tests.vllm.rendering      asks again for those that tests/router compares with where no engine is
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, TypeAlias

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.router.knowledge.tokens.bodies import CASES, Case
from tests.router.knowledge.tokens.goldens import FILE
from tests.router.knowledge.tokens.styles import STYLES
from tests.vllm.engine import LIGHT, OFFLINE
from tests.vllm.environment import Environment, ensure

Question: TypeAlias = tuple[str, str, dict[str, Any]]
"""A template's name, a path and a body."""

ORACLE = Path(__file__).with_name("render_oracle.py")
BODIES = 600
BEGIN = "<|endoftext|>"
"""The token that the tests' tokenizer puts in front where it is told to add special tokens."""

KEPT = 14
"""Bodies that are kept of each template and path together."""


def cases() -> list[Question]:
    """Template's name, path and body: always the same ones."""
    made: list[Question] = []

    @settings(
        max_examples=BODIES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(sorted(STYLES)), CASES)
    def collect(style: str, case: Case) -> None:
        made.append((style, *case))

    collect()
    return made


def folder_with_begin(model: Path, folder: Path) -> Path:
    """The model's folder, with a tokenizer that puts a token in front."""
    folder.mkdir()
    for file in model.iterdir():
        if file.suffix in (".json", ".jinja"):
            (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (identity,) = (token["id"] for token in tokenizer["added_tokens"] if token["content"] == BEGIN)
    pieces = [{"SpecialToken": {"id": BEGIN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BEGIN: {"id": BEGIN, "ids": [identity], "tokens": [BEGIN]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def answered(environment: Environment, folder: Path) -> list[tuple[Question, dict[str, Any]]]:
    """Every body with what the engine's own code makes of it."""
    process = subprocess.Popen(
        [environment.python, ORACLE, folder],
        env=os.environ | OFFLINE | LIGHT | {"VLLM_LOGGING_LEVEL": "CRITICAL"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    questions = cases()  # while it starts
    output, errors = process.communicate(json.dumps([(STYLES[style], *asked) for style, *asked in questions]))
    assert process.returncode == 0, errors[-2000:]
    return list(zip(questions, json.loads(output.splitlines()[-1]), strict=True))


def keep() -> None:
    """Writes the bodies that tests/router compares with, with the engine's text."""
    environment = ensure()
    with tempfile.TemporaryDirectory() as home:
        pairs = answered(environment, folder_with_begin(environment.model, Path(home) / "model"))
    counts: Counter[tuple[str, str]] = Counter()
    lines = []
    for (style, path, body), answer in pairs:
        dated = style == "llama" and "date_string" not in body.get("chat_template_kwargs", {})
        line = json.dumps({"style": style, "path": path, "body": body, "text": answer.get("text")}, ensure_ascii=True)
        if "text" in answer and not dated and len(line) < 1000 and counts[style, path] < KEPT:
            counts[style, path] += 1
            lines.append(line)
    FILE.write_text("".join(line + "\n" for line in dict.fromkeys(lines)))


if __name__ == "__main__":
    keep()
