"""What a client gets through the router is what the replica itself would have given it, byte for byte."""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import Any, TypeAlias

import pytest

from tests.vllm.conftest import StartRouter
from tests.vllm.engine import MODEL, Engine
from tests.vllm.wire import Answer, exchange

PROMPT = "def add(left, right):\n    " * 20
QUESTION = [{"role": "system", "content": "Be brief. " * 30}, {"role": "user", "content": "Why is the sky blue?"}]
FIXED = {"model": MODEL, "temperature": 0, "seed": 11}
COMPLETION = FIXED | {"prompt": PROMPT, "max_tokens": 24}
CHAT = FIXED | {"messages": QUESTION, "max_tokens": 24}
STREAM = {"stream": True}
USAGE = STREAM | {"stream_options": {"include_usage": True}}

ANSWERED: dict[str, tuple[str, object]] = {
    "completion": ("/v1/completions", COMPLETION),
    "completion, one token": ("/v1/completions", COMPLETION | {"max_tokens": 1}),
    "completion, log-probabilities": ("/v1/completions", COMPLETION | {"logprobs": 2}),
    "completion, echo": ("/v1/completions", COMPLETION | {"echo": True}),
    "completion, three answers": ("/v1/completions", COMPLETION | {"n": 3, "temperature": 0.8}),
    "completion, list of prompts": ("/v1/completions", COMPLETION | {"prompt": ["one", "two", "three"]}),
    "completion, token ids": ("/v1/completions", COMPLETION | {"prompt": [5, 6, 7, 8]}),
    "completion, no model named": ("/v1/completions", {"prompt": PROMPT, "max_tokens": 4, "temperature": 0}),
    "completion, salted": ("/v1/completions", COMPLETION | {"cache_salt": "pepper"}),
    "chat": ("/v1/chat/completions", CHAT),
    "chat, parts": (
        "/v1/chat/completions",
        CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello, 🙂 ünïcode"}]}]},
    ),
    "chat, log-probabilities": ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 2}),
    "responses": ("/v1/responses", FIXED | {"input": "Say something.", "max_output_tokens": 8}),
    "messages": ("/v1/messages", {"model": MODEL, "messages": QUESTION[1:], "max_tokens": 8, "temperature": 0}),
    "tokenize": ("/tokenize", {"model": MODEL, "prompt": PROMPT}),
    "tokenize chat": ("/tokenize", {"model": MODEL, "messages": QUESTION}),
    "detokenize": ("/detokenize", {"model": MODEL, "tokens": [5, 6, 7, 8]}),
}
STREAMED: dict[str, tuple[str, object]] = {
    "completion": ("/v1/completions", COMPLETION | STREAM),
    "completion, one token": ("/v1/completions", COMPLETION | STREAM | {"max_tokens": 1}),
    "completion, usage": ("/v1/completions", COMPLETION | USAGE),
    "chat": ("/v1/chat/completions", CHAT | STREAM),
    "chat, one token": ("/v1/chat/completions", CHAT | STREAM | {"max_tokens": 1}),
    "chat, usage": ("/v1/chat/completions", CHAT | USAGE),
}
REFUSED: dict[str, tuple[str, object, int]] = {
    "not JSON": ("/v1/completions", b'{"model":', 400),
    "no body": ("/v1/completions", b"", 400),
    "a list": ("/v1/chat/completions", b"[1, 2]", 400),
    "a string": ("/v1/completions", b'"text"', 400),
    "a number": ("/v1/completions", b"5", 400),
    "null": ("/v1/completions", b"null", 400),
    "not a number": ("/v1/completions", b'{"model": "tiny", "prompt": "x", "temperature": NaN}', 400),
    "half a surrogate": ("/v1/completions", b'{"model": "nobody", "prompt": "\\ud800"}', 404),
    "not UTF-8": ("/v1/completions", b'{"model": "\xff"}', 400),
    "no prompt": ("/v1/completions", {"model": MODEL}, 400),
    "no messages": ("/v1/chat/completions", {"model": MODEL}, 400),
    "messages of a wrong type": ("/v1/chat/completions", {"model": MODEL, "messages": "hello"}, 400),
    "messages without a role": ("/v1/chat/completions", {"model": MODEL, "messages": [{"content": "x"}]}, 400),
    "prompt of a wrong type": ("/v1/completions", {"model": MODEL, "prompt": {"a": 1}}, 400),
    "model of a wrong type": ("/v1/completions", {"model": 5, "prompt": "x"}, 400),
    "a list for a model": ("/v1/completions", {"model": ["tiny"], "prompt": "x"}, 400),
    "an object for a model": ("/v1/completions", {"model": {"a": 1}, "prompt": "x"}, 400),
    "no tokens wanted": ("/v1/completions", COMPLETION | {"max_tokens": -1}, 400),
    "too many tokens wanted": ("/v1/completions", COMPLETION | {"max_tokens": 1_000_000}, 400),
    "prompt too long": ("/v1/completions", FIXED | {"prompt": "word " * 20_000, "max_tokens": 1}, 400),
    "empty salt": ("/v1/completions", COMPLETION | {"cache_salt": ""}, 400),
    "stream options without a stream": (
        "/v1/completions",
        COMPLETION | {"stream_options": {"include_usage": True}},
        400,
    ),
    "error in a stream request": ("/v1/chat/completions", CHAT | STREAM | {"max_tokens": -1}, 400),
    "unknown model": ("/v1/completions", COMPLETION | {"model": "nobody"}, 404),
    "unknown model, chat stream": ("/v1/chat/completions", CHAT | STREAM | {"model": "nobody"}, 404),
    "unknown path": ("/v1/nowhere", COMPLETION, 404),
    "a path of another task": ("/v1/embeddings", {"model": MODEL, "input": "x"}, 404),
}
Difference: TypeAlias = tuple[str, str, object, object]
"""Case, part, what the router gave, what the replica gave."""
OF_THE_HOP = {"connection", "keep-alive", "transfer-encoding", "date", "x-request-id", "content-length"}
"""Headers that belong to one connection or one server, not to the answer."""


@pytest.fixture(params=["telling", "stock"])
def engine(request: pytest.FixtureRequest, engines: list[Engine]) -> Engine:
    """Each kind of replica in turn."""
    return next(engine for engine in engines if engine.name == request.param)


def test_answers_are_the_replicas_own(engine: Engine, start_router: StartRouter) -> None:
    """Completions, chat, responses, messages and tokenisation come through with every byte as it was."""
    router = start_router(engine)
    found: list[Difference] = []
    for case, (path, body) in ANSWERED.items():
        exchange(engine.port, path, body)  # so that the cache holds the prompt in both exchanges that follow
        routed, direct = exchange(router.port, path, body), exchange(engine.port, path, body)
        found += _differences(case, 200, _told(routed), _told(direct))
    assert not found, "\n".join(map(str, found))


def test_streams_are_the_replicas_own(engine: Engine, start_router: StartRouter) -> None:
    """Streams come through with every event as it was, usage event and end mark included."""
    router = start_router(engine)
    found: list[Difference] = []
    for case, (path, body) in STREAMED.items():
        exchange(engine.port, path, body)
        routed, direct = exchange(router.port, path, body), exchange(engine.port, path, body)
        found += _differences(case, 200, _told(routed) | _levelled(routed), _told(direct) | _levelled(direct))
    assert not found, "\n".join(map(str, found))


def test_errors_are_the_replicas_own(engine: Engine, start_router: StartRouter) -> None:
    """A refusal has the same status and the same bytes, whether the router or the replica speaks it."""
    router = start_router(engine)
    found: list[Difference] = []
    for case, (path, body, status) in REFUSED.items():
        routed, direct = exchange(router.port, path, body), exchange(engine.port, path, body)
        found += _differences(case, status, _told(routed), _told(direct))
    assert not found, "\n".join(map(str, found))


def test_wrong_methods_and_content_types_are_refused_as_by_the_replica(
    engine: Engine, start_router: StartRouter
) -> None:
    """405 for a GET where a POST belongs, 404 for a GET of nothing, 400 for a body that is not called JSON."""
    router = start_router(engine)
    found: list[Difference] = []
    for path, status in {"/v1/completions": 405, "/v1/chat/completions": 405, "/nowhere": 404}.items():
        routed, direct = (exchange(port, path, method="GET") for port in (router.port, engine.port))
        found += _differences(f"GET {path}", status, _told(routed), _told(direct))
    as_text = {"Content_Type": "text/plain"}
    routed, direct = (exchange(port, "/v1/completions", COMPLETION, **as_text) for port in (router.port, engine.port))
    found += _differences("plain text", 400, _told(routed), _told(direct))
    assert not found, "\n".join(map(str, found))


def test_models_are_listed_as_by_the_replicas(engines: list[Engine], start_router: StartRouter) -> None:
    """Two replicas of one model are one entry, with the replica's own fields."""
    routed = exchange(start_router().port, "/v1/models", method="GET")
    direct = exchange(engines[0].port, "/v1/models", method="GET")
    assert routed.status == direct.status == 200
    assert json.loads(routed.settled) == json.loads(direct.settled)


def test_the_clients_request_id_reaches_the_replica(engine: Engine, start_router: StartRouter) -> None:
    """X-Request-Id becomes the id of the answer, as it does without a router."""
    router = start_router(engine)
    routed, direct = (
        exchange(port, "/v1/completions", COMPLETION, X_Request_Id="mine-1") for port in (router.port, engine.port)
    )
    assert json.loads(routed.body)["id"] == json.loads(direct.body)["id"] == "cmpl-mine-1"


def test_transfer_parameters_of_a_client_stop_at_the_router(engine: Engine, start_router: StartRouter) -> None:
    """A body with `kv_transfer_params` is answered like the same body without them."""
    router = start_router(engine)
    plain = exchange(engine.port, "/v1/completions", COMPLETION)
    asked = COMPLETION | {"kv_transfer_params": {"do_remote_prefill": True, "remote_host": "127.0.0.1"}}
    routed = exchange(router.port, "/v1/completions", asked)
    assert json.loads(routed.body)["choices"] == json.loads(plain.body)["choices"]


def _told(answer: Answer) -> dict[str, Any]:
    """What a client can tell apart: status, headers and body, without what belongs to one hop or one moment.

    A reply that the router itself speaks has no `server`; of its headers only the content type is compared.
    """
    own = "server" not in answer.headers
    headers = {
        name: value
        for name, value in answer.headers.items()
        if (name == "content-type" if own else name not in OF_THE_HOP)
    }
    return {"status": answer.status, "own": own, "headers": headers, "body": answer.settled}


def _differences(case: str, status: int, routed: dict[str, Any], direct: dict[str, Any]) -> list[Difference]:
    """What is not the same, part by part, and a status that is not the one expected."""
    assert direct["status"] == status, (case, direct)
    if routed["own"]:
        direct = direct | {"own": True, "headers": {"content-type": direct["headers"]["content-type"]}}
    return [(case, part, routed[part], direct[part]) for part in direct if routed[part] != direct[part]]


def _levelled(answer: Answer) -> dict[str, Any]:
    """The stream's events with their text taken out, repeats merged; and the text.

    How many tokens share one event is the engine's timing, not its answer: one that is ahead of its own writer puts
    what has gathered into the next event. So only that much is levelled; every other byte must be equal.
    """
    spoken = re.compile(rb'("text":|"delta":\{"content":)("(?:[^"\\]|\\.)*")')
    events = answer.settled.split(b"\n\n")
    text = "".join(json.loads(found[2]) for event in events for found in spoken.finditer(event))
    frames = [spoken.sub(rb"\1*", event) for event in events]
    return {"body": [frame for frame, _ in groupby(frames)], "text": text}
