"""The same many conversations, held through one router or several in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp

from tests.system.stage import Reply, Router, text

SYSTEM_PROMPTS = 4
AT_ONCE = 3
"""Conversations whose turn is under way at one time."""
NEAR = 0.9
"""Hit rates of one router that learns its engines' speed differ by some 3 % from run to run, for speed is learnt from
times of few milliseconds here: so far two rates may lie apart that are meant to be within 2 % of each other. Where no
speed is learnt (no KV events) 2 % is what is asserted."""


class Chats:
    """Conversations about `about`, which makes them different from all others, of as many words and turns."""

    def __init__(self, about: str, conversations: int = 40, turns: int = 6) -> None:
        self._turns = turns
        self._histories = [
            [{"role": "system", "content": text(f"{about} system {number % SYSTEM_PROMPTS}", 90)}]
            for number in range(conversations)
        ]
        self._about = about
        self.replies: list[Reply] = []

    async def hold(
        self, routers: Sequence[Router], session: aiohttp.ClientSession | None = None, at_once: int = AT_ONCE
    ) -> None:
        """All turns of all, the next turn of each through the next router."""
        for turn in range(self._turns):
            room = asyncio.Semaphore(at_once)
            await asyncio.gather(
                *(
                    self._turn(room, routers[(number + turn) % len(routers)], number, turn, session)
                    for number in range(len(self._histories))
                )
            )

    async def _turn(
        self, room: asyncio.Semaphore, router: Router, number: int, turn: int, session: aiohttp.ClientSession | None
    ) -> None:
        history = self._histories[number]
        history.append({"role": "user", "content": text(f"{self._about} question {number} {turn}", 54)})
        async with room:
            reply = await router.ask(history, session, max_tokens=16)
        self.replies.append(reply)
        history.append({"role": "assistant", "content": reply.text})
