"""Whether a tokenizer keeps the rule that encoding in pieces rests on: asked at start, of the tokenizer itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from kvroute.router.knowledge.tokens.segments import Refused, Segments

log = logging.getLogger(__name__)

SHOWN = 80
"""Characters of a text that a warning shows."""
_MOST_TOKENS = 24
"""Special tokens that are tried; the others of a tokenizer are made in the same way."""

_TEXTS = (
    "Hello, how are you today?",
    " leading and trailing ",
    "\n",
    "\n\n\n",
    " ",
    "\t\t  mixed \r\n white   space \n ",
    "def f(x: int) -> int:\n    return {'a': [x, 1.5e-3]}[\"a\"]  # comment\n",
    "naïve café, Straße, ΑΒΓ ς, İstanbul ŞŞ",
    "e\u0301 combining a\u0300\u0301, \ufb01 ligature, Ⅻ, ½, \uff21\uff22",
    "漢字かな交じり文、한국어, ไทย, العربية, हिन्दी",
    "👩‍👩‍👧‍👦 🏳️‍🌈 emoji \u200b\u200d\ufeff zero width\u00a0no-break",
    "'s 't 're DON'T I'LL 12345 3.14159 1,000,000",
    "<|not_special|> <not> [INST is open </s ",
    "a" * 300,
    "▁already ▁▁there",
    "word",
    "Word",
    "\u0301starts with a combining mark",
    '{"name": "get_weather", "arguments": {"city": "Paris"}}',
)


def check(segments: Segments, name: str) -> bool:
    """Encode a battery of texts in pieces and whole. Any difference switches pieces off, loudly. True: none.

    Takes about a tenth of a second: not for the event loop.
    """
    if not segments.splits:
        log.info("tokenizer %s: has no special token to cut at, so each prompt is encoded whole", name)
        return True
    for text in battery(segments):
        for special in (False, True):
            if not _same(segments, text, special):
                segments.stop_splitting()
                log.warning(
                    "tokenizer %s: encoding in pieces differs from encoding the whole, first for %r; from now on each "
                    "prompt is encoded whole, which costs more CPU per request",
                    name,
                    text if len(text) <= SHOWN else text[:SHOWN] + "...",
                )
                return False
    return True


def _same(segments: Segments, text: str, special: bool) -> bool:
    """Both ways give the same ids, or both refuse."""
    found: list[bytes | None] = []
    for encode in (segments.encode, segments.encode_whole):
        try:
            found.append(encode(text, special))
        except Refused:
            found.append(None)
    return found[0] == found[1]


def battery(segments: Segments) -> Iterator[str]:
    """Texts that a tokenizer which looks beyond its special tokens would betray itself with."""
    tokens = _chosen(segments.contents)
    yield ""
    yield from _TEXTS
    for token in tokens:
        yield token
        yield token + token
        for text in _TEXTS:
            yield f"{token}{text}{token}"
        yield f" {token} a {token}b{token}\n{token}\n\n "
    for first, second in zip(tokens, [*tokens[1:], *tokens[:1]], strict=True):
        yield f"{first}{second}{first}"
        yield f"x{first}y{second}z"
        yield f"{first}system\nYou are helpful.{second}\n{first}user\n{_TEXTS[6]}{second}\n{first}assistant\n"
        yield first + second[:-1]
        yield first[1:] + second + first[:-1]
    yield "".join(f"{token}{text}" for token, text in zip(tokens * len(_TEXTS), _TEXTS, strict=False))


def _chosen(contents: list[str]) -> list[str]:
    """Some of the special tokens, those of odd shape among them."""
    if len(contents) <= _MOST_TOKENS:
        return contents
    step = len(contents) / _MOST_TOKENS
    return [contents[int(i * step)] for i in range(_MOST_TOKENS)]
