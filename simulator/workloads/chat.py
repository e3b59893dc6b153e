"""People who talk with a model: a shared system prompt, then turn after turn behind all that was said."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kvroute.simulator.workloads.contract import Workload
from kvroute.simulator.workloads.draws import SPREAD, Zipf, lengths, pauses
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.sessions import Turn
from kvroute.simulator.workloads.source import Source, Wanted
from kvroute.simulator.workloads.talks import BATCH, Lane, Talk, in_sessions
from kvroute.simulator.workloads.talks import OPTIONS as COMMON

OPTIONS = (
    Option("turns", 5, "turns of a conversation on average", least=1, most=10_000),
    Option("message", 100, "tokens of what a person says, on average", least=1, most=1_000_000),
    Option("output", 200, "output tokens on average", least=1, most=1_000_000),
    Option("system", 512, "tokens of the system prompt", most=1_000_000),
    Option("systems", 4, "system prompts there are", least=1, most=1_000_000),
    Option("skew", 1.0, "how much more frequent some of them are: weights are rank**-skew", float, most=10),
    Option("context", 32_768, "tokens at which a conversation ends", least=1, most=10_000_000),
    SPREAD,
    *COMMON,
)


def make(wanted: Wanted) -> Workload:
    """The workload."""
    return in_sessions(wanted, lambda: _talks(wanted))


def _talks(wanted: Wanted) -> Iterator[Talk]:
    options = wanted.options
    rng = np.random.default_rng([wanted.seed, 1])
    key_tokens, system, spread = options.whole("key"), options.whole("system"), options.number("spread")
    zipf = Zipf(options.whole("systems"), options.number("skew"))
    shared, context = system // key_tokens, options.whole("context")
    fresh, number = wanted.first_key + shared * zipf.choices, 0
    while True:
        which = zipf.draw(BATCH, rng).tolist()
        counts = lengths(options.whole("turns"), spread, BATCH, rng)
        total = int(counts.sum())
        messages = iter(lengths(options.whole("message"), spread, total, rng).tolist())
        outputs = iter(lengths(options.whole("output"), spread, total, rng).tolist())
        thinks = iter(pauses(options.number("think") / wanted.speedup, total, rng))
        for one, count in zip(which, counts.tolist(), strict=True):
            said = [(next(messages), next(outputs), next(thinks)) for _ in range(count)]
            turns = _turns(said, system, context)
            begins = wanted.first_key + one * shared
            lane = Lane(range(begins, begins + shared), fresh)
            yield Talk(f"{wanted.tag}u{number}", turns, (lane,), (), key_tokens)
            fresh += (turns[-1].tokens + turns[-1].output_tokens) // key_tokens + 1
            number += 1


def _turns(said: list[tuple[int, int, float]], system: int, context: int) -> list[Turn]:
    """Until the context is full; the first turn is taken in any case."""
    turns: list[Turn] = []
    tokens = system
    for message, output, think in said:
        tokens += message
        if turns and tokens + output > context:
            break
        place = len(turns)
        turns.append(Turn(tokens, output, think if place else 0.0, 1 if place else 0, (place + 1,)))
        tokens += output
    turns[-1] = Turn(turns[-1].tokens, turns[-1].output_tokens, turns[-1].think, turns[-1].waits, ())
    return turns


SOURCE = Source("conversations of people: turns wait for answers, and think times between", OPTIONS, make)
