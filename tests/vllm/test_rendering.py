"""Prompts as the router renders them are those that the real engine tokenises, for hundreds of bodies and templates."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from kvroute.router import parse
from kvroute.router.knowledge.tokens import templates
from kvroute.router.knowledge.tokens.rendered import Rendered
from kvroute.router.knowledge.tokens.renderer import Renderer
from tests.router.knowledge.tokens.styles import SPECIAL_TOKENS, STYLES
from tests.vllm.environment import Environment
from tests.vllm.rendering import answered, folder_with_begin

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


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
        return bool(found == self.answer["ids"])


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
    return [
        Compared(*question, answer, ours(renderers, *question)) for question, answer in answered(environment, folder)
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
