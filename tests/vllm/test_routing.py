"""On multi-turn chats the default policy finds more of each prompt cached than round-robin does, and starts sooner."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from statistics import median

from tests.vllm.conftest import StartRouter
from tests.vllm.engine import MODEL, Engine
from tests.vllm.processes import Process
from tests.vllm.wire import exchange, time_to_first_token

_log = logging.getLogger(__name__)

CHATS = 5
"""An odd number, or round-robin over two replicas would follow each chat by accident. One replica cannot hold all."""
TURNS = 4
OPENING_TOKENS = 1500
"""At least so many in a chat's first message."""
WORDS = ["return", "value", "import", "class", "self", "index", "list", "error", "while", "object", "string", "number"]


@dataclass(frozen=True, slots=True)
class Run:
    """What one policy made of the chats."""

    hit_rate: float
    """Prompt tokens found in a replica's cache / prompt tokens looked up, over both replicas."""
    ttft: float
    """Median time to first token, in seconds."""


class Chat:
    """A conversation that grows by what was answered and by a new question."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.messages = [{"role": "user", "content": self._text(OPENING_TOKENS)}]

    def turn(self, port: int) -> float:
        """Asks, takes the answer into the conversation, and returns the seconds until it began."""
        body = {"model": MODEL, "messages": self.messages, "stream": True, "max_tokens": 8, "temperature": 0}
        seconds, answer = time_to_first_token(port, "/v1/chat/completions", body)
        self.messages.append({"role": "assistant", "content": answer.decode()})
        self.messages.append({"role": "user", "content": self._text(20)})
        return seconds

    def _text(self, words: int) -> str:
        return " ".join(self._rng.choice(WORDS) for _ in range(words))


def _run(router: Process, engines: list[Engine], seed: int) -> Run:
    """All chats, turn by turn, with prompts that no replica has seen: a seed of its own for each run."""
    chats = [Chat(random.Random(seed * 1000 + number)) for number in range(CHATS)]
    looked_up, found = _looked_up(engines), _found(engines)
    seconds = [chat.turn(router.port) for _ in range(TURNS) for chat in chats]
    return Run((_found(engines) - found) / (_looked_up(engines) - looked_up), median(seconds))


def _looked_up(engines: list[Engine]) -> float:
    return sum(engine.tokens_looked_up for engine in engines)


def _found(engines: list[Engine]) -> float:
    return sum(engine.tokens_found for engine in engines)


def test_the_chats_are_long_enough(engines: list[Engine]) -> None:
    """Each chat opens with at least 1,500 tokens, as the engine counts them."""
    chat = Chat(random.Random(0))
    told = exchange(engines[0].port, "/tokenize", {"model": MODEL, "messages": chat.messages})
    assert b'"count":' in told.body
    assert int(told.body.split(b'"count":')[1].split(b",")[0]) >= OPENING_TOKENS


def test_chats_find_their_cache_and_start_sooner_than_under_round_robin(
    engines: list[Engine], start_router: StartRouter
) -> None:
    """Against round-robin on the same replicas: a higher cached-token rate, and a lower median TTFT."""
    rotating = _run(start_router(policy="round-robin"), engines, seed=1)
    chosen = _run(start_router(policy="latency"), engines, seed=2)
    for name, run in (("round-robin", rotating), ("latency", chosen)):
        _log.info("%s: %.0f %% of prompt tokens cached, median TTFT %.3f s", name, 100 * run.hit_rate, run.ttft)
    assert chosen.hit_rate > rotating.hit_rate + 0.2, (chosen, rotating)
    assert chosen.ttft < rotating.ttft, (chosen, rotating)
