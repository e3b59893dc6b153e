"""Long documents to be summarised: every prompt is new, answers are short. Nothing can be found in a cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kvroute.scorers.contract import Request
from kvroute.simulator.workloads.arrivals import CHUNK
from kvroute.simulator.workloads.contract import Job, Workload
from kvroute.simulator.workloads.draws import SPREAD, lengths
from kvroute.simulator.workloads.keys import UNIQUE, anchor
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.single import SINGLE, arriving, in_loop, limited
from kvroute.simulator.workloads.source import Source, Wanted

OPTIONS = (
    Option("input", 16384, "prompt tokens on average", least=1, most=10_000_000),
    Option("output", 256, "output tokens on average", least=1, most=1_000_000),
    SPREAD,
    *SINGLE,
)


def make(wanted: Wanted) -> Workload:
    """The workload."""
    return in_loop(wanted, lambda: limited(wanted, _jobs(wanted)))


def _jobs(wanted: Wanted) -> Iterator[Job]:
    options = wanted.options
    drawn = np.random.default_rng([wanted.seed, 1])
    at = arriving(wanted)
    key_tokens, spread = options.whole("key"), options.number("spread")
    fresh, number = UNIQUE + wanted.first_key, 0
    while True:
        tokens = lengths(options.whole("input"), spread, CHUNK, drawn)
        outputs = lengths(options.whole("output"), spread, CHUNK, drawn)
        for length, generated in zip(tokens.tolist(), outputs.tolist(), strict=True):
            keys = list(range(fresh, fresh + length // key_tokens))
            fresh += length // key_tokens
            request = Request(
                f"{wanted.tag}{number}", "m", length, keys, key_tokens, None, None, anchor(fresh), 0, 1, True
            )
            yield Job(next(at), request, generated)
            number += 1


SOURCE = Source("long prompts that share nothing, short answers", OPTIONS, make)
