"""`/v1/completions` and `/v1/embeddings`: prompts that are tokenised as they are, or given as token ids."""

from __future__ import annotations

from typing import Any

from kvroute.router.knowledge.tokens.chat import tokenised
from kvroute.router.knowledge.tokens.conversation import Refused
from kvroute.router.knowledge.tokens.rendered import Prompt, Rendered

_AT_ONCE = 1 << 16
"""Ids looked at without a pause for other threads."""


def read(fields: dict[str, Any], name: str) -> Rendered:
    """The prompts in the field `name`.

    Raises:
        Refused: where the engine would answer 400, or the prompt is not in that field.
    """
    if fields.get("prompt_embeds") is not None:
        raise Refused("prompt embeddings")
    if fields.get("suffix") is not None:
        raise Refused("a suffix: the model's own code puts it in")
    first, *others = _prompts(fields.get(name))
    rendered = tokenised(fields, special_tokens=True)
    if isinstance(first, str):
        rendered.text = first
    else:
        rendered.ids = first
    rendered.others = tuple(others)
    return rendered


def _prompts(given: Any) -> list[Prompt]:
    """One prompt or several; what they are is told by the first, as by the engine."""
    if type(given) is str:
        return [given]
    if type(given) is not list or not given:
        raise Refused("no prompt")
    if type(given[0]) is int:
        return [_ids(given)]
    return [prompt if type(prompt) is str else _ids(prompt) for prompt in given]


def _ids(prompt: Any) -> list[int]:
    if type(prompt) is not list:
        raise Refused("a prompt that is neither text nor token ids")
    for at in range(0, len(prompt), _AT_ONCE):
        if not set(map(type, prompt[at : at + _AT_ONCE])) <= {int}:
            raise Refused("a prompt that is neither text nor token ids")
    return prompt
