"""The stand-in's tokenizer: deterministic, without a vocabulary file, about four bytes of English a token."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

VOCABULARY = 131072
"""Token ids are below this."""
LONGEST_TOKEN = 6
"""No token stands for more characters."""
START, END = 1, 2
"""The special tokens around each chat message."""
_FIRST = 16
"""Ids below are special."""
_PIECE = re.compile(r" ?\w{1,5}| ?[^\w\s]{1,4}|\s{1,4}")
_REMEMBERED = 200_000
"""Pieces whose id is kept; more are hashed each time."""

_WORDS = (
    "bay birk cave clay cove dale dune fern weir ford glen gulf hill isle jade kelp lake lava lime marl mesa mist moor "
    "opal peak pine reef rill sand tarn tide wood"
)


class Tokenizer:
    """Text to token ids and back. Words that it generates tokenise to themselves, so chats find their own replies."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self.words = tuple(self._id(f" {word}") for word in _WORDS.split())
        """Tokens that generated text is made of."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        known = self._ids
        return [known.get(piece) or self._id(piece) for piece in _PIECE.findall(text)]

    def text(self, token: int) -> str:
        """What one token stands for; a made-up word for an id that was never seen."""
        if token in (START, END):
            return ""
        return self._texts.get(token) or f" t{token:x}"

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids; special tokens are left out."""
        return "".join(map(self.text, tokens))

    def generate(self, seed: int, count: int) -> list[int]:
        """`count` output tokens that depend on `seed` alone."""
        words, state = self.words, seed & 0xFFFFFFFF
        tokens = []
        for _ in range(count):
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            tokens.append(words[state >> 27])
        return tokens

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: object = None,
        *,
        generation: bool = True,
        open_end: bool = False,
    ) -> list[int]:
        """Token ids of a conversation: tools, messages in order, and the head of the reply that is to come."""
        tokens: list[int] = []
        if tools:
            self._message(tokens, "system", orjson.dumps(tools).decode())
        for message in messages:
            self._message(tokens, str(message.get("role", "user")), content_text(message))
        if open_end and messages:
            del tokens[-2:]
        elif generation:
            tokens.append(START)
            tokens += self.encode("assistant\n")
        return tokens

    def _message(self, tokens: list[int], role: str, content: str) -> None:
        tokens.append(START)
        tokens += self.encode(role + "\n")
        tokens += self.encode(content)
        tokens.append(END)
        tokens += self.encode("\n")

    def _id(self, piece: str) -> int:
        token = _FIRST + zlib.crc32(piece.encode("utf-8", "surrogatepass")) % (VOCABULARY - _FIRST)
        if len(self._ids) < _REMEMBERED:
            self._ids[piece] = token
            self._texts.setdefault(token, piece)
        return token


def content_text(message: Mapping[str, Any]) -> str:
    """A message as text: its string, or its parts one behind the other (images by what names them)."""
    content = message.get("content")
    text = "" if content is None else content if isinstance(content, str) else _parts_text(content)
    calls = message.get("tool_calls")
    return text + orjson.dumps(calls).decode() if calls else text


def _parts_text(parts: object) -> str:
    if not isinstance(parts, list):
        return orjson.dumps(parts).decode()
    return "".join(
        part["text"] if isinstance(part, dict) and isinstance(part.get("text"), str) else orjson.dumps(part).decode()
        for part in parts
    )
