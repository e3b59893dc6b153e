"""Prompts that would keep the loop are told from others without looking at all of them."""

from __future__ import annotations

from typing import Any

import pytest

from kvroute.router.knowledge.tokens.weight import heavy, size

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SAID = {"role": "user", "content": "hello"}

_light: list[dict[str, Any]] = [
    {},
    {"prompt": None, "messages": 5, "tools": "x"},
    {"messages": [{"role": "user", "content": "word " * 800}] * 100},
    {"messages": [SAID] * 100, "tools": [TOOL] * 100},
    {"prompt": list(range(50_000))},
    {"prompt": ["text"] * 100},
    {"model": "m", "logit_bias": {str(number): 1 for number in range(100_000)}},
]
_heavy: list[dict[str, Any]] = [
    {"messages": [SAID] * 2000},
    {"messages": [{"role": "user", "content": "x" * 2_000_000}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 2000}]},
    {"messages": [SAID], "tools": [TOOL] * 2000},
    {"messages": [SAID], "chat_template_kwargs": {"a": [1] * 10_000}},
    {"system": "x" * 2_000_000},
    {"prompt": list(range(200_000))},
    {"prompt": [list(range(200_000))]},
    {"prompt": [[1]] * 10_000},
    {"input": ["x"] * 10_000},
    {"input": [{"role": "user", "content": "x"}] * 10_000},
]


@pytest.mark.parametrize("fields", _light)
def test_usual_prompts_are_light(fields: dict[str, Any]) -> None:
    """A hundred messages of a long conversation, a hundred tools, tens of thousands of token ids."""
    assert not heavy(fields)


@pytest.mark.parametrize("fields", _heavy)
def test_huge_prompts_are_heavy(fields: dict[str, Any]) -> None:
    """Whatever it is that there is much of, and wherever it stands."""
    assert heavy(fields)


@pytest.mark.parametrize(
    ("fields", "characters"),
    [
        ({"prompt": "x" * 1000}, 1000),
        ({"prompt": list(range(1000))}, 4000),
        ({"prompt": [[1, 2, 3]] * 1000}, 12_000),
        ({"messages": [{"content": "x" * 10}] * 10_000, "system": "y" * 7}, 100_007),
        ({"messages": [{"content": [{"text": "x" * 10}] * 1000}] * 1000}, 10_000_000),
        ({"tools": []}, 0),
    ],
)
def test_sizes_are_guessed_by_samples(fields: dict[str, Any], characters: int) -> None:
    """The characters of a prompt of which much is alike are told exactly; its work is no less than they make."""
    found = size(fields)
    assert found.characters == pytest.approx(characters)
    assert found.nanoseconds >= characters
