"""Prompts as the router renders them are those that the real engine tokenises, for hundreds of bodies and templates."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from kvroute.router import parse
from kvroute.router.knowledge.tokens import templates
from kvroute.router.knowledge.tokens.rendered import Rendered
from kvroute.router.knowledge.tokens.renderer import Renderer
from tests.router.knowledge.tokens.bodies import CASES, Case
from tests.router.knowledge.tokens.styles import SPECIAL_TOKENS, STYLES
from tests.vllm.engine import LIGHT, OFFLINE
from tests.vllm.environment import Environment

ORACLE = Path(__file__).with_name("render_oracle.py")
BODIES = 600
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
BEGIN = "<|endoftext|>"
"""The token that the tests' tokenizer puts in front where it is told to add special tokens."""


def cases() -> list[tuple[str, str, dict[str, Any]]]:
    """Template's name, path and body: always the same ones."""
    made: list[tuple[str, str, dict[str, Any]]] = []

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


def asked(environment: Environment, folder: Path, questions: Sequence[tuple[str, str, dict[str, Any]]]) -> list[Any]:
    """What the engine's own code makes of each."""
    done = subprocess.run(
        [environment.python, ORACLE, folder],
        input=json.dumps([(STYLES[style], path, body) for style, path, body in questions]),
        env=OFFLINE | LIGHT | {"VLLM_LOGGING_LEVEL": "CRITICAL", "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    assert len(answers) == len(questions)
    return list(answers)


@dataclass(frozen=True)
class Compared:
    """A body, the engine's answer and ours."""

    style: str
    path: str
    body: dict[str, Any]
    answer: dict[str, Any]
    rendered: Rendered

    def has_ids(self, tokenizer: Tokenizer) -> bool:
        """True where all of its prompts, tokenised, are the engine's."""
        prompts = [self.rendered.text if self.rendered.ids is None else self.rendered.ids, *self.rendered.others]
        special = self.rendered.add_special_tokens
        found = [
            tokenizer.encode(prompt, add_special_tokens=special).ids if isinstance(prompt, str) else list(prompt)
            for prompt in prompts
        ]
        return found == self.answer["ids"]


def ours(renderers: dict[str, Renderer], style: str, path: str, body: dict[str, Any]) -> Rendered:
    return renderers[style].render(parse.parse(path.encode(), json.dumps(body).encode()))


@pytest.fixture(scope="module")
def folder(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer has a token to put in front."""
    return folder_with_begin(environment.model, tmp_path_factory.mktemp("render") / "model")


@pytest.fixture(scope="module")
def compared(environment: Environment, folder: Path) -> list[Compared]:
    """Every case with the engine's answer and ours."""
    renderers = {style: Renderer(templates.of(text, SPECIAL_TOKENS)) for style, text in STYLES.items()}
    questions = cases()
    answers = asked(environment, folder, questions)
    return [
        Compared(*question, answer, ours(renderers, *question))
        for question, answer in zip(questions, answers, strict=True)
    ]


def test_prompts_are_the_engines(compared: list[Compared]) -> None:
    """Whatever text the engine renders, the router renders in the same characters, and calls whole."""
    wrong = [
        each
        for each in compared
        if "ids" in each.answer
        and (not each.rendered.whole or (each.rendered.ids is None and each.rendered.text != each.answer["text"]))
    ]
    assert not wrong, f"{len(wrong)} of {len(compared)} differ:\n" + "\n".join(map(str, wrong[:5]))


def test_tokens_are_the_engines(folder: Path, compared: list[Compared]) -> None:
    """The rendered text, tokenised with or without special tokens as it says, gives the ids that the engine takes."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    wrong = [
        each
        for each in compared
        if "ids" in each.answer and each.rendered.truncate in (None, -1) and not each.has_ids(tokenizer)
    ]
    assert not wrong, f"{len(wrong)} of {len(compared)} differ:\n" + "\n".join(map(str, wrong[:5]))


def test_most_bodies_are_answered(compared: list[Compared]) -> None:
    """Each endpoint and each template is compared often enough for the two tests above to mean something."""
    answered = [each for each in compared if "ids" in each.answer]
    assert len(answered) > len(compared) / 2
    counts = Counter(name for each in answered for name in (each.style, each.path))
    assert min(counts[name] for name in [*STYLES, *PATHS]) > 10, counts
