"""A replica is killed while requests flow: what had not begun to be answered is answered by the other."""

from __future__ import annotations

import http.client
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.vllm.engine import MODEL, Engine
from tests.vllm.proxy import Router
from tests.vllm.wire import content, events, exchange, opened

_log = logging.getLogger(__name__)

CLIENTS = 6
REQUESTS = 8
"""Of each client, one after another."""
TOKENS = 12


@dataclass(frozen=True, slots=True)
class Ending:
    """How one request ended for its client."""

    whole: bool
    """A 200 that came to its end."""
    began: bool
    """Some of the answer had arrived."""
    answer: bytes
    """The last of what arrived."""


def _ask(port: int, client: int, number: int) -> Ending:
    """One request with a prompt of its own; every other client streams."""
    prompt = f"client {client} asks question {number}: " + f"word{client * 100 + number} " * 60
    body = {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True, "stream": client % 2 == 0}
    return _stream(port, body) if body["stream"] else _whole(port, body)


def _whole(port: int, body: object) -> Ending:
    try:
        answer = exchange(port, "/v1/completions", body)
    except (OSError, http.client.HTTPException) as error:
        return Ending(False, False, repr(error).encode())
    return Ending(answer.status == 200, False, answer.body)


def _stream(port: int, body: object) -> Ending:
    began, last = False, b""
    with opened(port, "/v1/completions", body) as connection:
        try:
            reply = connection.getresponse()
            if reply.status != 200:
                return Ending(False, False, reply.read())
            for last in events(reply):
                began = began or bool(content(last))
        except (OSError, http.client.HTTPException) as error:
            return Ending(False, began, repr(error).encode())
    return Ending(last == b"[DONE]", began, last)


def test_killing_a_replica_loses_nothing_that_had_not_begun(engines: list[Engine], router: Router) -> None:
    """Every request is answered in full, save those whose tokens were already on their way from the killed replica.

    Later it comes back on the same port, with an empty cache, and takes part again.
    """
    victim = engines[1]
    served = threading.Semaphore(0)

    def client(name: int) -> list[Ending]:
        endings = []
        for number in range(REQUESTS):
            endings.append(_ask(router.port, name, number))
            served.release()
        return endings

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, name) for name in range(CLIENTS)]
        for _ in range(CLIENTS):  # traffic is flowing, and most of it is yet to come
            served.acquire()
        victim.kill()
        endings = [ending for finished in clients for ending in finished.result()]

    assert len(endings) == CLIENTS * REQUESTS
    unserved = [ending for ending in endings if not ending.whole]
    assert all(ending.began for ending in unserved), unserved
    assert len(unserved) <= CLIENTS, "at most what was being streamed at that moment can break"
    _log.info("%d of %d requests were moved, %d streams were cut", router.retries, len(endings), len(unserved))
    _comes_back(victim, router)


def _comes_back(victim: Engine, router: Router) -> None:
    """The killed replica is out, then starts again and is sent requests."""
    router.wait_for_replicas(1)
    victim.start()
    victim.wait_until_ready()
    router.wait_for_replicas(2)
    for number in range(20):
        prompt = f"{number} is new"
        assert (
            exchange(router.port, "/v1/completions", {"model": MODEL, "prompt": prompt, "max_tokens": 1}).status == 200
        )
    assert victim.tokens_looked_up > 0
