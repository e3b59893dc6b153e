"""A client that goes away takes its request with it: the replica's slot is free long before the answer would end."""

from __future__ import annotations

import pytest

from tests.vllm.conftest import StartRouter
from tests.vllm.engine import MODEL, Engine
from tests.vllm.wire import events, exchange, opened

LIMIT = 3500
LONG = {"model": MODEL, "prompt": "while True:", "max_tokens": LIMIT, "ignore_eos": True, "temperature": 0}
"""An answer that takes far longer than noticing that nobody reads it."""


def _tokens_made(engine: Engine) -> float:
    return engine.sample("vllm:generation_tokens_total")


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
def test_a_disconnect_frees_the_replicas_slot(stream: bool, engines: list[Engine], start_router: StartRouter) -> None:
    """Whether the reply had begun or not, the replica stops generating, and most of the answer is never made."""
    engine = engines[0]
    router = start_router(engine)
    made = _tokens_made(engine)
    with opened(router.port, "/v1/completions", LONG | {"stream": stream}) as connection:
        if stream:
            next(events(connection.getresponse()))
        engine.wait_until(running=True)
    engine.wait_until(running=False)
    assert _tokens_made(engine) - made < LIMIT
    assert exchange(router.port, "/v1/completions", LONG | {"max_tokens": 1}).status == 200


def test_a_disconnect_leaves_other_requests_alone(engines: list[Engine], start_router: StartRouter) -> None:
    """Two streams on one replica: the one that stays gets all its tokens after the other has gone."""
    router = start_router(engines[0])
    staying = LONG | {"stream": True, "max_tokens": 200, "stream_options": {"include_usage": True}}
    with opened(router.port, "/v1/completions", staying) as stays:
        reply = events(stays.getresponse())
        next(reply)
        with opened(router.port, "/v1/completions", LONG | {"stream": True}) as goes:
            next(events(goes.getresponse()))
        *_, usage, end = reply
    assert b'"completion_tokens":200' in usage
    assert end == b"[DONE]"
