"""A multi-turn chat workload over HTTP: users who each hold one conversation after another, in a closed loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import aiohttp
import msgspec
import numpy as np
import orjson

_WORDS = (
    "a about after all and are as at be been before between but by can could day did do each find first for from "
    "get go good great had has have he her here him his house how if in into is it just know large last life like "
    "little long look make man many may me more most much must my never new no not now number of off old on one "
    "only or other our out over own part people place right said same saw say see she should small so some still "
    "such take than that the their them then there these they thing think this those three through time to too "
    "two under up us use very want was water way we well went were what when where which while who why will with "
    "without word work world would write year you your"
)


class ChatShape(msgspec.Struct, frozen=True, kw_only=True):
    """How the users talk. A word of English is a little more than one token."""

    users: int = 24
    turns: int = 10
    """Questions of one conversation."""
    system_prompts: int = 4
    """Different ones; each is shared by many conversations."""
    system_words: int = 600
    question_words: int = 350
    answer_tokens: int = 40
    think_seconds: float = 0.4
    """Mean pause between an answer and the next question."""


class Turn(msgspec.Struct, frozen=True):
    """One question and its answer."""

    ttft: float
    """Seconds until the first token, as the client sees it."""
    seconds: float
    """Until the last."""


class ChatResult(msgspec.Struct):
    """What the users saw."""

    turns: list[Turn] = []
    failures: int = 0
    seconds: float = 0.0
    """How long the load ran."""

    def ttft(self, percentile: float) -> float:
        """A percentile of the time to first token [s]; NaN without turns."""
        return float(np.percentile([turn.ttft for turn in self.turns], percentile)) if self.turns else float("nan")

    @property
    def requests_per_second(self) -> float:
        """Answered questions a second."""
        return len(self.turns) / self.seconds if self.seconds else 0.0


class ChatLoad:
    """Drives one URL. The same seed asks the same questions, whatever the answers' timing."""

    def __init__(self, url: str, shape: ChatShape, seed: int, model: str | None = None) -> None:
        self.result = ChatResult()
        """Filled while the load runs."""
        self._url = f"{url}/v1/chat/completions"
        self._shape = shape
        self._seed = seed
        self._start = 0.0
        self._model = model
        rng = random.Random(seed)
        self._systems = [_text(rng, shape.system_words) for _ in range(shape.system_prompts)]

    async def run(self, seconds: float, on_turn: Callable[[ChatResult], None] = lambda result: None) -> ChatResult:
        """Let the users talk for so long; turns under way at the end are dropped. Calls `on_turn` at each answer."""
        self._start = time.monotonic()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            users = [asyncio.create_task(self._user(session, number, on_turn)) for number in range(self._shape.users)]
            try:
                await asyncio.wait(users, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for user in users:
                    user.cancel()
                ended = await asyncio.gather(*users, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome
        self.result.seconds = time.monotonic() - self._start
        return self.result

    async def _user(self, session: aiohttp.ClientSession, number: int, on_turn: Callable[[ChatResult], None]) -> None:
        rng = random.Random(f"{self._seed} {number}")
        think = self._shape.think_seconds
        await asyncio.sleep(rng.uniform(0.0, 2.0 * think))
        while True:
            messages = [{"role": "system", "content": rng.choice(self._systems)}]
            for _ in range(self._shape.turns):
                messages.append({"role": "user", "content": _text(rng, self._shape.question_words)})
                answer = await self._ask(session, messages)
                self.result.seconds = time.monotonic() - self._start
                on_turn(self.result)
                if answer is None:
                    break
                messages.append({"role": "assistant", "content": answer})
                await asyncio.sleep(rng.expovariate(1.0 / think) if think else 0.0)

    async def _ask(self, session: aiohttp.ClientSession, messages: list[dict[str, str]]) -> str | None:
        """One question; the answer, or None where the server failed."""
        body = {"messages": messages, "max_tokens": self._shape.answer_tokens, "stream": True, "ignore_eos": True}
        if self._model is not None:
            body["model"] = self._model
        start, first, words = time.monotonic(), None, []
        try:
            async with session.post(
                self._url, data=orjson.dumps(body), headers={"Content-Type": "application/json"}
            ) as reply:
                if reply.status == 200:
                    async for line in reply.content:
                        if line.startswith(b"data: {"):
                            first = first or time.monotonic()
                            words.append(_delta(line))
        except (aiohttp.ClientError, TimeoutError):
            first = None
        if first is None:
            self.result.failures += 1
            await asyncio.sleep(0.2)
            return None
        self.result.turns.append(Turn(first - start, time.monotonic() - start))
        return "".join(words)


def _delta(line: bytes) -> str:
    choices = orjson.loads(line[6:]).get("choices")
    return (choices[0]["delta"].get("content") or "") if choices else ""


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS.split(), k=words))
