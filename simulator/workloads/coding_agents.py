"""Coding agents: long shared tools and instructions, many quick turns behind a growing context, and sub-agents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kvroute.simulator.workloads.contract import Workload
from kvroute.simulator.workloads.draws import SPREAD, lengths, pauses
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.sessions import Turn
from kvroute.simulator.workloads.source import Source, Wanted
from kvroute.simulator.workloads.talks import BATCH, Lane, Talk, in_sessions
from kvroute.simulator.workloads.talks import OPTIONS as COMMON

OPTIONS = (
    Option("turns", 30, "turns of a session on average, without its sub-agents'", least=1, most=10_000),
    Option("prefix", 16_384, "tokens of tools and instructions, the same for all sessions", most=1_000_000),
    Option("task", 2_000, "tokens of the task, on average", least=1, most=1_000_000),
    Option("step", 800, "tokens that a tool's result adds per turn, on average", least=1, most=1_000_000),
    Option("output", 250, "output tokens on average", least=1, most=1_000_000),
    Option("context", 200_000, "tokens at which a session ends", least=1, most=10_000_000),
    Option("subagents", 0.02, "share of the turns that start sub-agents, which the next turn waits for", float, most=1),
    Option("fan", 2, "sub-agents started at once", least=1, most=100),
    Option("subturns", 8, "turns of a sub-agent on average", least=1, most=10_000),
    Option("subprefix", 8_192, "tokens of the sub-agents' tools and instructions", most=1_000_000),
    SPREAD,
    *(option._replace(default=5.0) if option.name == "think" else option for option in COMMON),
)


def make(wanted: Wanted) -> Workload:
    """The workload."""
    return in_sessions(wanted, lambda: _talks(wanted))


def _talks(wanted: Wanted) -> Iterator[Talk]:
    options = wanted.options
    rng = np.random.default_rng([wanted.seed, 1])
    key_tokens = options.whole("key")
    shared, subshared = options.whole("prefix") // key_tokens, options.whole("subprefix") // key_tokens
    begins = range(wanted.first_key, wanted.first_key + shared)
    subbegins = range(begins.stop, begins.stop + subshared)
    fresh, number = subbegins.stop, 0
    while True:
        for count in lengths(options.whole("turns"), options.number("spread"), BATCH, rng).tolist():
            growing = _Growing(wanted, rng)
            growing.fill(count)
            lanes = []
            for lane, keys in enumerate(growing.keys):
                lanes.append(Lane(subbegins if lane else begins, fresh))
                fresh += keys
            yield Talk(f"{wanted.tag}a{number}", growing.turns(), lanes, growing.lane_of, key_tokens)
            number += 1


class _Growing:
    """One session as it is drawn up."""

    def __init__(self, wanted: Wanted, rng: np.random.Generator) -> None:
        self._options = wanted.options
        self._rng = rng
        self._think = wanted.options.number("think") / wanted.speedup
        self._asked: list[tuple[int, int, float]] = []
        """Prompt tokens, output tokens, think time."""
        self._needs: list[tuple[int, ...]] = []
        self.lane_of: list[int] = []
        self.keys: list[int] = [0]
        """Of each lane, behind its shared beginning."""

    def fill(self, count: int) -> None:
        """The session's own turns, and sub-agents between them."""
        options, rng = self._options, self._rng
        fan = options.whole("fan")
        forks = (rng.random(count) < options.number("subagents")).tolist()
        steps = iter(self._steps(count))
        tokens = options.whole("prefix") + self._length("task")
        needs: tuple[int, ...] = ()
        for fork in forks:
            grown, output, think = next(steps)
            if needs and tokens + output > options.whole("context"):
                break
            needs = (self._add(0, tokens, output, think, needs),)
            tokens += output + grown
            if fork:
                ends = [self._subagent(needs) for _ in range(fan)]
                needs = tuple(end for end, _ in ends)
                tokens += sum(answer for _, answer in ends)

    def turns(self) -> list[Turn]:
        """All, each behind those that it waits for."""
        then: list[list[int]] = [[] for _ in self._asked]
        for index, needs in enumerate(self._needs):
            for need in needs:
                then[need].append(index)
        return [
            Turn(tokens, output, think if needs else 0.0, len(needs), tuple(following))
            for (tokens, output, think), needs, following in zip(self._asked, self._needs, then, strict=True)
        ]

    def _subagent(self, needs: tuple[int, ...]) -> tuple[int, int]:
        """A sub-agent's last turn, and the tokens of its answer."""
        options = self._options
        self.keys.append(0)
        lane = len(self.keys) - 1
        tokens, output = options.whole("subprefix") + self._length("step"), 0
        for grown, output, think in self._steps(self._length("subturns")):
            needs = (self._add(lane, tokens, output, think, needs),)
            tokens += output + grown
        return needs[0], output

    def _add(self, lane: int, tokens: int, output: int, think: float, needs: tuple[int, ...]) -> int:
        self._asked.append((tokens, output, think))
        self._needs.append(needs)
        self.lane_of.append(lane)
        self.keys[lane] = (tokens + output) // self._options.whole("key") + 1
        return len(self._asked) - 1

    def _steps(self, count: int) -> list[tuple[int, int, float]]:
        """What each turn is given after it, its output, and the think time before it."""
        options, rng, spread = self._options, self._rng, self._options.number("spread")
        grown = lengths(options.whole("step"), spread, count, rng).tolist()
        outputs = lengths(options.whole("output"), spread, count, rng).tolist()
        thinks = pauses(self._think, count, rng)
        return list(zip(grown, outputs, thinks, strict=True))

    def _length(self, option: str) -> int:
        options = self._options
        return int(lengths(options.whole(option), options.number("spread"), 1, self._rng)[0])


SOURCE = Source("coding agents: many quick turns, a growing context, sub-agents", OPTIONS, make)
