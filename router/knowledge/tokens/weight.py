"""How much work a body's prompt makes before its tokens are known: told on the loop, without looking at all of it."""

from __future__ import annotations

from typing import Any

import msgspec

MOST_NANOSECONDS = 5_000_000
"""A prompt that takes longer to be rendered, cut and hashed does not keep the loop: as long as Python lets a thread
run before another one may."""

_PER_CHARACTER = 4
"""Nanoseconds, as measured: rendering, the search for special tokens, hashes."""
_PER_VALUE = 1000
"""Of a message, a field, a part: templates are slow."""
_PER_ID = 40
_SAMPLES, _FEWER = 32, 4
"""Looked at of a field's own list, and of each one below."""
_DEPTH = 5

_PROMPTS = ("prompt", "input")
"""May hold token ids."""
_OTHERS = ("messages", "system", "instructions", "tools", "chat_template_kwargs", "documents")


def heavy(fields: dict[str, Any]) -> bool:
    """Whether the body is such a prompt. Looks at a few thousand values at the most."""
    left = MOST_NANOSECONDS
    pending = [fields[name] for name in _OTHERS if name in fields]
    for name in _PROMPTS:
        left -= _prompts(fields.get(name), pending)
    while pending and left >= 0:
        value = pending.pop()
        kind = type(value)
        if kind is str:
            left -= len(value) * _PER_CHARACTER
        elif kind is dict or kind is list:
            left -= len(value) * _PER_VALUE
            if left >= 0:
                pending += value.values() if kind is dict else value
    return left < 0


def _prompts(given: Any, pending: list[Any]) -> int:
    """Nanoseconds of the token ids in a field; what else stands there is put to the `pending`."""
    if type(given) is not list:
        pending.append(given)
        return 0
    if given and type(given[0]) is int:
        return len(given) * _PER_ID
    cost = len(given) * _PER_VALUE
    if cost > MOST_NANOSECONDS:
        return cost
    for one in given:
        if type(one) is list and one and type(one[0]) is int:
            cost += len(one) * _PER_ID
        else:
            pending.append(one)
    return cost


class Size(msgspec.Struct, frozen=True, gc=False):
    """About how large a prompt is, by samples."""

    nanoseconds: float
    """To render, cut and hash it."""
    characters: float
    """A token id counts as four."""


def size(fields: dict[str, Any]) -> Size:
    """What is told by looking at a few thousand values at the most."""
    given = [fields[name] for name in (*_PROMPTS, *_OTHERS) if name in fields]
    return _sum([_size(value, _SAMPLES, _DEPTH) for value in given], 1, 0)


def _size(value: Any, samples: int, depth: int) -> Size:
    kind = type(value)
    if kind is str:
        return Size(len(value) * _PER_CHARACTER, len(value))
    if kind is int:
        return Size(_PER_ID, 4)
    if kind not in (list, dict) or not value or not depth:
        return Size(0, 0)
    listed = value if kind is list else list(value.values())
    sampled = listed[:: -(-len(listed) // samples)]
    each = 0 if type(listed[0]) is int else _PER_VALUE
    return _sum([_size(one, _FEWER, depth - 1) for one in sampled], len(listed) / len(sampled), each)


def _sum(sizes: list[Size], times: float, each: int) -> Size:
    """Of so many times as many values, each of which takes some nanoseconds of its own."""
    nanoseconds = sum([one.nanoseconds + each for one in sizes])
    return Size(nanoseconds * times, sum([one.characters for one in sizes]) * times)
