"""Real text for a workload's keys, to be sent to real engines: prompts share text exactly where they share keys."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from kvroute.scorers.contract import Request
from kvroute.simulator.workloads.contract import Job

_LIST = """
the and for are but not you all any can had her was one our out day get has him his how man new now old see two way
who boy did its let put say she too use air add age ago arm art ask bad bag bed big bit box bus buy car cat cup cut
dog dry ear eat end eye far few fit fly fun gas got gun guy hat hit hot ice job key kid law lay leg lie lot low map
may men met mix mom net nor odd off oil own pay per pop ran raw red rest rich ride ring rise road rock role room root
rule run safe said sale same sand save seat seed seem self sell send sent ship shop shot show side sign site size skin
slow snow soft soil some song soon sort soul spot star stay step stop such suit sure take talk tall task team tell
term test text than that them then they thin this thus time tiny told tone took tool tour town tree trip true turn
type unit upon used user vast very view vote wage wait wake walk wall want warm wash wave weak wear week well went
were west what when whom wide wife wild will wind wine wing wire wise wish with wood word wore work yard year your
zero able back ball band bank base bear beat been bell best bill bird blue boat body bone book born both call calm
came camp card
"""
WORDS = tuple(_LIST.split())
"""Short and common: with the space before it each is one token of most tokenizers, of about 4.6 bytes."""


def text(key: int, tokens: int) -> str:
    """The words of one key, as many as its tokens, a space before each. Other keys have other words."""
    return _words(f"key {key}", tokens)


def prompt(request: Request, key_tokens: int) -> str:
    """The words of all keys, then words of its own up to the prompt's length."""
    parts = [_held(key, key_tokens) for key in request.keys]
    rest = request.tokens - len(request.keys) * key_tokens
    return "".join((*parts, _words(f"request {request.id}", rest)))


def body(job: Job, key_tokens: int, *, model: str | None = None, chat: bool = False) -> dict[str, Any]:
    """An OpenAI request: a completion of the prompt; with `chat`, one message of a user.

    Its answer has `output_tokens` tokens exactly, where the engine knows `ignore_eos` as vLLM does. `model` is the
    request's unless given.
    """
    request = job.request
    words = prompt(request, key_tokens)
    content: dict[str, Any] = {"messages": [{"role": "user", "content": words}]} if chat else {"prompt": words}
    found = {
        "model": model or request.adapter or request.model,
        **content,
        "max_tokens": job.output_tokens,
        "ignore_eos": True,
        "stream": request.stream,
    }
    return found | {"priority": request.priority} if request.priority else found


def _words(seed: str, count: int) -> str:
    drawn = hashlib.shake_128(seed.encode()).digest(count)
    return "".join(map(_SPACED.__getitem__, drawn))


_SPACED = [f" {word}" for word in WORDS]
_held = lru_cache(maxsize=4096)(text)
"""Keys that are shared are asked for again and again."""
