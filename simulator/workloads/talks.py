"""Sessions of generators: what has been said stays in the prompt, so keys are counted up, lane by lane."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec
import numpy as np

from kvroute.simulator.workloads import arrivals
from kvroute.simulator.workloads.contract import Workload
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.sessions import Plan, Sessions, Turn
from kvroute.simulator.workloads.single import KEY, concurrency, rate_of
from kvroute.simulator.workloads.source import DEFAULT_REQUESTS, Wanted

OPTIONS = (
    KEY,
    *(
        option._replace(meaning="requests per second in the long run: sessions start accordingly")
        if option.name == "rate"
        else option
        for option in arrivals.OPTIONS
    ),
    Option("concurrency", None, "sessions at once instead: as one ends the next begins", least=1),
    Option("think", 10.0, "seconds from an answer to the next turn, on average (exponential)", float),
)
BATCH = 256
"""Sessions that are drawn at once, and from which the mean number of turns is taken."""


class Lane(NamedTuple):
    """Where the keys of one conversation are."""

    shared: range
    """Of the beginning, which others have too."""
    first: int
    """The first key behind that."""


class Talk:
    """A session whose lanes only grow: each prompt is the one before it, its answer, and something new."""

    __slots__ = ("_key_tokens", "_lane_of", "_lanes", "session", "turns")

    def __init__(
        self, session: str, turns: Sequence[Turn], lanes: Sequence[Lane], lane_of: Sequence[int], key_tokens: int
    ) -> None:
        """`lane_of`: each turn's lane; empty where there is one lane alone."""
        self.session = session
        self.turns = turns
        self._lanes = lanes
        self._lane_of = lane_of
        self._key_tokens = key_tokens

    def prompt(self, index: int) -> list[int]:
        """The lane's keys up to this turn's length."""
        shared, first = self._lanes[self._lane_of[index] if self._lane_of else 0]
        own = self.turns[index].tokens // self._key_tokens - len(shared)
        return [*shared, *range(first, first + own)]

    def answer(self, index: int) -> Sequence[int]:
        """The lane's keys from there to the answer's end."""
        shared, first = self._lanes[self._lane_of[index] if self._lane_of else 0]
        turn, key_tokens = self.turns[index], self._key_tokens
        first -= len(shared)
        return range(first + turn.tokens // key_tokens, first + (turn.tokens + turn.output_tokens) // key_tokens)

    def first_turns(self, count: int) -> Talk:
        """Its first turns alone; none of them needs a later one."""
        turns = [
            msgspec.structs.replace(turn, then=tuple(index for index in turn.then if index < count))
            for turn in self.turns[:count]
        ]
        return Talk(self.session, turns, self._lanes, self._lane_of, self._key_tokens)


def in_sessions(wanted: Wanted, talks: Callable[[], Iterator[Talk]]) -> Workload:
    """Sessions of an endless source, the first that hold `requests` requests in all. What times are divided by divides
    think times too: those must be so already."""
    options = wanted.options

    def plans() -> Iterator[Plan]:
        left = DEFAULT_REQUESTS if wanted.requests is None else wanted.requests
        for talk in talks():
            yield talk if len(talk.turns) <= left else talk.first_turns(left)
            left -= len(talk.turns)
            if left <= 0:
                return

    def starts() -> Iterator[float]:
        first = list(islice(talks(), BATCH))
        starting = rate_of(wanted) * len(first) / sum(len(talk.turns) for talk in first)
        return arrivals.times(options, starting, np.random.default_rng([wanted.seed, 2]), wanted.speedup)

    return Sessions(wanted.name, options.whole("key"), plans, starts, concurrency(wanted), wanted.tag)
