"""In front of the real engine the router finds tokenizer, blocks and events by itself, and predicts to the token."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from tests.vllm.conftest import StartRouter
from tests.vllm.engine import MODEL, Engine
from tests.vllm.processes import HANG, Process
from tests.vllm.proxy import Router
from tests.vllm.wire import exchange

WORDS = ["return", "value", "import", "class", "self", "index", "list", "error", "while", "object", "string", "number"]


def text(seed: int, words: int = 300) -> str:
    """Text that no other test begins with."""
    rng = random.Random(seed)
    return f"{seed}: " + " ".join(rng.choice(WORDS) for _ in range(words))


def chat(seed: int, **fields: Any) -> tuple[str, dict[str, Any]]:
    """A chat and where it goes."""
    messages = [{"role": "system", "content": text(seed, 60)}, {"role": "user", "content": text(seed + 1)}]
    return "/v1/chat/completions", {"messages": messages, **fields}


def completion(seed: int, **fields: Any) -> tuple[str, dict[str, Any]]:
    """A completion and where it goes."""
    return "/v1/completions", {"prompt": text(seed), **fields}


def ask(target: Process, path: str, body: dict[str, Any]) -> tuple[int, int]:
    """(predicted, reported) cached tokens; predicted is -1 where the engine itself was asked."""
    whole = {"model": MODEL, "max_tokens": 4, "temperature": 0, **body}
    answer = exchange(target.port, path, whole, X_Kvroute_Explain="1")
    assert answer.status == 200, answer.body
    usage = json.loads(answer.body)["usage"]
    headers = answer.headers
    assert int(headers.get("x-kvroute-prompt-tokens", usage["prompt_tokens"])) == usage["prompt_tokens"]
    return int(headers.get("x-kvroute-hit-tokens", -1)), usage["prompt_tokens_details"]["cached_tokens"]


def exact(router: Router) -> None:
    """Returns once the router says that it knows all that its replica holds."""
    give_up = time.monotonic() + HANG
    while "knowledge of its cache is exact" not in router.log:
        assert time.monotonic() < give_up, router.log
        time.sleep(0.05)  # between two looks at another process's log


@pytest.fixture
def telling(engines: list[Engine]) -> Engine:
    """The replica that tells cached tokens."""
    return engines[0]


def test_predictions_are_exact(start_router: StartRouter, telling: Engine) -> None:
    """Of cold and repeated prompts, of a conversation that goes on, of prompts with a salt, and of what the engine had
    to evict in between, the router predicts just the tokens that the engine then reports as cached."""
    router = start_router(telling)
    exact(router)
    asked = [completion(7000), chat(7100), completion(7200, cache_salt="a"), completion(7200, cache_salt="b")]
    seen = [ask(router, *one) for one in [*asked, *asked, *asked[:2]]]
    path, body = asked[1]
    body["messages"] += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": text(7300, 80)}]
    seen.append(ask(router, path, body))
    for seed in range(7400, 7420):  # more than the cache holds
        seen.append(ask(router, *completion(seed)))
    seen += [ask(router, *one) for one in asked]
    assert [predicted for predicted, _ in seen] == [reported for _, reported in seen]
    assert sum(reported for _, reported in seen) > 1000


def test_what_others_sent_is_known(start_router: StartRouter, telling: Engine) -> None:
    """A prompt that the engine got past the router is predicted, and so is one from before the router started."""
    before, beside = completion(8000), chat(8100)
    ask(telling, *before)
    router = start_router(telling)
    exact(router)
    ask(telling, *beside)
    for one in (before, beside):
        predicted, reported = ask(router, *one)
        assert predicted == reported > 100
