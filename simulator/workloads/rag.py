"""Retrieval: instructions, then some chunks of documents in the order of their rank, then a question.

A chunk's KV depends on all before it, so a chunk is found again only behind the same chunks. The keys of a chunk are
drawn from the path to it by a mixing function: they are equal where the path is, and the paths, of which there are too
many to be remembered, need not be.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kvroute.scorers.contract import Request
from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.arrivals import CHUNK
from kvroute.simulator.workloads.contract import Job, Workload
from kvroute.simulator.workloads.draws import SPREAD, Whole, Zipf, lengths
from kvroute.simulator.workloads.keys import UNIQUE, anchor
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.single import SINGLE, arriving, in_loop, limited
from kvroute.simulator.workloads.source import Source, Wanted

CHUNK_KEYS = 1 << 10
"""Keys that a chunk may have: the low bits of its keys count them."""
_PATH_BITS = np.uint64(0x0000_3FFF_FFFF_FFFF)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""Of SplitMix64's finaliser (Steele, Lea and Flood 2014)."""

OPTIONS = (
    Option("documents", 10_000, "chunks of documents there are", least=1, most=10_000_000),
    Option("skew", 1.0, "how much more frequent some are: weights are rank**-skew", float, most=10),
    Option("chunk", 512, "tokens of a chunk", least=1, most=65_536),
    Option("chunks", 4, "chunks in a prompt", least=1, most=1000),
    Option("system", 256, "tokens of the instructions, the same for all", most=1_000_000),
    Option("question", 64, "tokens of the question, on average", least=1, most=1_000_000),
    Option("output", 256, "output tokens on average", least=1, most=1_000_000),
    SPREAD,
    *SINGLE,
)


def make(wanted: Wanted) -> Workload:
    """The workload."""
    options = wanted.options
    if options.whole("chunks") > options.whole("documents"):
        raise WorkloadError(f"{wanted.name}: a prompt of chunks={options.whole('chunks')} needs as many documents")
    if options.whole("chunk") // options.whole("key") + 1 >= CHUNK_KEYS:
        raise WorkloadError(f"{wanted.name}: a chunk may be {CHUNK_KEYS} keys at most: make `key` larger")
    return in_loop(wanted, lambda: limited(wanted, _jobs(wanted)))


def _jobs(wanted: Wanted) -> Iterator[Job]:
    options = wanted.options
    drawn = np.random.default_rng([wanted.seed, 1])
    at = arriving(wanted)
    key_tokens, chunks, system = options.whole("key"), options.whole("chunks"), options.whole("system")
    ends = [(system + place * options.whole("chunk")) // key_tokens for place in range(chunks + 1)]
    known = system + chunks * options.whole("chunk")
    zipf = Zipf(options.whole("documents"), options.number("skew"))
    instructions = list(range(wanted.first_key, wanted.first_key + ends[0]))
    stretches = [end - start for start, end in pairwise(ends)]
    fresh, number = UNIQUE + wanted.first_key, 0
    while True:
        tokens = known + lengths(options.whole("question"), options.number("spread"), CHUNK, drawn)
        outputs = lengths(options.whole("output"), options.number("spread"), CHUNK, drawn)
        paths = _paths(_distinct(zipf, chunks, drawn), wanted.first_key)
        for firsts, length, generated in zip(paths.tolist(), tokens.tolist(), outputs.tolist(), strict=True):
            keys = instructions.copy()
            for first, stretch in zip(firsts, stretches, strict=True):
                keys.extend(range(first, first + stretch))
            own = length // key_tokens - ends[-1]
            keys.extend(range(fresh, fresh + own))
            fresh += own
            begins = anchor(wanted.first_key if system else firsts[0])
            request = Request(f"{wanted.tag}{number}", "m", length, keys, key_tokens, None, None, begins, 0, 1, True)
            yield Job(next(at), request, generated)
            number += 1


def _distinct(zipf: Zipf, chunks: int, rng: np.random.Generator) -> Whole:
    """Rows of different documents: where one comes twice, the next that is free takes its place."""
    drawn = zipf.draw(CHUNK * chunks, rng).reshape(CHUNK, chunks)
    ordered = np.sort(drawn, axis=1)
    for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)).tolist():
        taken: set[int] = set()
        for place in range(chunks):
            one = int(drawn[row, place])
            while one in taken:
                one = (one + 1) % zipf.choices
            taken.add(one)
            drawn[row, place] = one
    return drawn


def _paths(documents: Whole, first_key: int) -> Whole:
    """The first key of each chunk, given all that stand before it in its row."""
    path: NDArray[np.uint64] = np.zeros(len(documents), np.uint64)
    found = np.empty(documents.shape, np.int64)
    for place in range(documents.shape[1]):
        path = path * np.uint64(0x9E3779B97F4A7C15) + documents[:, place].astype(np.uint64) + np.uint64(1)
        path = (path ^ (path >> np.uint64(30))) * _MIX[0]
        path = (path ^ (path >> np.uint64(27))) * _MIX[1]
        path ^= path >> np.uint64(31)
        found[:, place] = ((path & _PATH_BITS) * np.uint64(CHUNK_KEYS)).astype(np.int64)
    found += first_key + (1 << 56)
    return found


SOURCE = Source("retrieved chunks in varying order behind instructions, then a question", OPTIONS, make)
