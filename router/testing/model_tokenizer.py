"""A real model's tokenizer and chat template, for a stand-in whose prompts are to have the tokens of an engine's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kvroute.router.errors import ConfigError
from kvroute.router.knowledge.tokens.templates import load_template
from kvroute.router.testing.tokenizer import content_text


class ModelTokenizer:
    """What `tokenizer.Tokenizer` does, by the files in a model's folder. Contents are joined texts: no media."""

    def __init__(self, folder: Path) -> None:
        """Read `tokenizer.json` and the chat template.

        Raises:
            ConfigError: the folder has no tokenizer or no chat template.
        """
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(f"--model-folder: {folder} has no tokenizer.json")
        self._tokenizer: Any = Tokenizer.from_file(str(file))
        templates = load_template(folder)
        if templates.plain is None:
            raise ConfigError(f"--model-folder: {folder} has no chat template")
        self._plain = templates.plain
        self._with_tools = templates.with_tools or templates.plain
        self._special = templates.special_tokens
        self._words = tuple(range(16, min(4096, self._tokenizer.get_vocab_size())))

    def encode(self, text: str) -> list[int]:
        """Token ids of a completion's prompt."""
        return list(self._tokenizer.encode(text).ids)

    def text(self, token: int) -> str:
        """What one token stands for."""
        return str(self._tokenizer.decode([token]))

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids; special tokens are left out."""
        return str(self._tokenizer.decode(list(tokens)))

    def generate(self, seed: int, count: int) -> list[int]:
        """`count` output tokens that depend on `seed` alone."""
        words, state = self._words, seed & 0xFFFFFFFF
        tokens = []
        for _ in range(count):
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            tokens.append(words[(state >> 8) % len(words)])
        return tokens

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: object = None,
        *,
        generation: bool = True,
        open_end: bool = False,
    ) -> list[int]:
        """Token ids of a conversation as the model's template renders it."""
        turns = [{**message, "content": content_text({"content": message.get("content")})} for message in messages]
        variables = {"documents": None, **self._special, "messages": turns, "tools": tools or None}
        template = self._with_tools if tools else self._plain
        text = template.render({**variables, "add_generation_prompt": generation and not open_end})
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
