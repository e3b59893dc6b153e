"""Request bodies: chats of a wanted size that share a system prompt and grow turn by turn. Same seed, same bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

STAMP = "@" * 16
"""Replaced by the load generator with 16 hexadecimal digits, so that a prompt can be new without new bodies."""

FRAME = 33
"""JSON around a message's text, roughly [bytes]."""

SYLLABLES = ("ka", "ro", "ti", "len", "mo", "sur", "ve", "dan", "pi", "hol", "ne", "gra", "st", "ul", "ber", "fa")


def words(rng: random.Random, size: int) -> str:
    """Pseudo-words of exactly `size` bytes of ASCII."""
    parts: list[str] = []
    length = 0
    while length < size:
        word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4)))
        parts.append(word)
        length += len(word) + 1
    return " ".join(parts)[:size].ljust(size, "x")


def body(messages: list[dict[str, str]], stream: bool) -> bytes:
    """One chat request in the shape that the official client sends, in bytes."""
    fields = {"model": "m", "messages": messages, "max_tokens": 16, "temperature": 0, "stream": stream}
    return json.dumps(fields, separators=(",", ":")).encode()


def chats(size: int, conversations: int, turns: int, seed: int, stream: bool = False) -> Iterator[bytes]:
    """Bodies of `size` bytes on average: the k-th turn of each conversation, then the (k+1)-th of each.

    Half of `size` is a system prompt that all share. Each conversation has a stamp of its own behind it, then a
    history; each turn repeats the turn before it and adds one answer and one question. From the first turn to the
    last a body grows by 16 % of `size`, small ones by more.
    """
    rng = random.Random(seed)
    system = {"role": "system", "content": words(rng, size // 2)}
    step = max(2 * FRAME + 24, int(size * 0.16 / max(turns - 1, 1)))
    empty = len(body([system, {"role": "user", "content": f"{STAMP} conversation 000000 "}], stream))
    start = max(0, size - empty - step * (turns - 1) // 2)
    histories = [
        [{"role": "user", "content": f"{STAMP} conversation {number:06d} {words(rng, start)}"}]
        for number in range(conversations)
    ]
    added = step - 2 * FRAME
    for _ in range(turns):
        for history in histories:
            yield body([system, *history], stream)
            answer = {"role": "assistant", "content": words(rng, added // 4)}
            question = {"role": "user", "content": words(rng, added - added // 4)}
            history += [answer, question]


def fresh(size: int, count: int, seed: int) -> Iterator[bytes]:
    """Bodies of `size` bytes that share nothing once stamped per request: the stamp comes first in the prompt."""
    rng = random.Random(seed)
    for _ in range(count):
        yield body([{"role": "user", "content": f"{STAMP} {words(rng, size - 130)}"}], False)


def write(path: Path, lines: Iterator[bytes]) -> Path:
    """Write one body a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
