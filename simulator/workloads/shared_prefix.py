"""Requests that begin with one of some shared prefixes, as with a system prompt per application."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kvroute.scorers.contract import Request
from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.arrivals import CHUNK
from kvroute.simulator.workloads.contract import Job, Workload
from kvroute.simulator.workloads.draws import SPREAD, Zipf, lengths
from kvroute.simulator.workloads.keys import UNIQUE, anchor
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.single import SINGLE, arriving, in_loop, limited
from kvroute.simulator.workloads.source import Source, Wanted

OPTIONS = (
    Option("input", 512, "prompt tokens on average, the prefix included", least=1, most=10_000_000),
    Option("output", 128, "output tokens on average", least=1, most=1_000_000),
    Option("prefixes", 64, "prefixes there are", least=1, most=1_000_000),
    Option("prefix", 256, "tokens of a prefix", most=10_000_000),
    Option("skew", 0.5, "how much more frequent some are: weights are rank**-skew", float, most=10),
    SPREAD,
    Option("adapters", 0, "LoRA adapters that the prefixes are spread over; 0: none", most=100_000),
    *SINGLE,
)


def make(wanted: Wanted) -> Workload:
    """The workload."""
    options = wanted.options
    if options.whole("prefix") >= options.whole("input"):
        raise WorkloadError(
            f"{wanted.name}: prefix={options.whole('prefix')} leaves nothing of input={options.whole('input')}: "
            "the input counts the prefix too"
        )
    return in_loop(wanted, lambda: limited(wanted, _jobs(wanted)))


def _jobs(wanted: Wanted) -> Iterator[Job]:
    options = wanted.options
    drawn = np.random.default_rng([wanted.seed, 1])
    at = arriving(wanted)
    key_tokens, prefix = options.whole("key"), options.whole("prefix")
    rest, output, spread = options.whole("input") - prefix, options.whole("output"), options.number("spread")
    adapters = options.whole("adapters")
    zipf = Zipf(options.whole("prefixes"), options.number("skew"))
    shared, first = prefix // key_tokens, wanted.first_key
    prefixes = [list(range(first + i * shared, first + (i + 1) * shared)) for i in range(options.whole("prefixes"))]
    fresh, number = UNIQUE + wanted.first_key, 0
    while True:
        which = zipf.draw(CHUNK, drawn)
        tokens = prefix + lengths(rest, spread, CHUNK, drawn)
        outputs = lengths(output, spread, CHUNK, drawn)
        own = tokens // key_tokens - shared
        starts = fresh + np.cumsum(own) - own
        fresh += int(own.sum())
        columns = zip(which.tolist(), tokens.tolist(), outputs.tolist(), own.tolist(), starts.tolist(), strict=True)
        for one, length, generated, count, start in columns:
            keys = [*prefixes[one], *range(start, start + count)]
            adapter = f"adapter-{one % adapters}" if adapters else None
            request = Request(
                f"{wanted.tag}{number}", "m", length, keys, key_tokens, adapter, None,
                anchor(first + one if prefix else fresh + number), 0, 1, True,
            )  # fmt: skip
            yield Job(next(at), request, generated)
            number += 1


SOURCE = Source("prompts that begin with one of some shared prefixes", OPTIONS, make)
