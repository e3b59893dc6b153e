"""The observed index alone: blocks stored per CPU-second, bytes per pair, lookups, and dropping a replica.

`python -m bench.knowledge [--peer PYTHON]`: the peer is the RadixTree of the package ai-dynamo-runtime, measured by
`bench/radixtree.py` under an interpreter that has it (this one unless told otherwise), on the same blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.goals import Goal
from bench.radixtree import CHAIN as PROMPT
from bench.radixtree import PROMPTS, chains, depths, resident
from kvroute.router.core.changes import Medium
from kvroute.router.core.index import Index
from kvroute.router.core.observed import Observed

ROWS = 64
PAIRS = 4_000_000
SEED = 1
GPU = Medium.GPU


def store(call: int, pairs: int) -> dict[str, float]:
    """Blocks stored per CPU-second in calls of so many, all new, from an empty index on."""
    observed = Observed(SEED)
    spent: list[float] = []
    for batch in chains(ROWS, pairs, call, 1, SEED):
        begun = time.process_time()
        observed.store(batch.row, GPU, batch.hashes, batch.keys)
        spent.append(time.process_time() - begun)
    return {"blocks/s": pairs / sum(spent), "longest [ms]": max(spent) * 1e3}


def size(shared: int, pairs: int) -> dict[str, float]:
    """Resident memory per (row, block) pair [bytes] when each block is held by so many rows, and after turnover."""
    observed = Observed(SEED)
    before = resident()
    for batch in chains(ROWS, pairs, 64, shared, SEED):
        observed.store(batch.row, GPU, batch.hashes, batch.keys)
    full = resident()
    first, second = (chains(ROWS, pairs // 4, 64, shared, seed) for seed in (SEED, SEED + 1))
    for old, new in zip(first, second, strict=True):
        observed.remove(old.row, GPU, old.hashes)
        observed.store(new.row, GPU, new.hashes, new.keys)
    return {"bytes per pair": (full - before) / pairs, "after turnover of a quarter": (resident() - before) / pairs}


def lookup(rows: int, pairs: int) -> dict[str, float]:
    """CPU time of `Index.lookup` [us]: a prompt that each row holds to another depth, in a full index."""
    index = Index(Observed(SEED))
    for batch in chains(rows, pairs, 4096, 1, SEED):
        index.observed.store(batch.row, GPU, batch.hashes, batch.keys)
    found: dict[str, float] = {}
    for name, seed in (("each its own depth", SEED), ("one has it all, the others a third", SEED + 1)):
        prompts = []
        for prompt, held in depths(rows, PROMPT, PROMPTS, seed):
            prompts.append(prompt.tolist())
            for row, own in enumerate(held):
                depth = own if seed == SEED else PROMPT // 3 if row else PROMPT
                index.observed.store(row, GPU, prompt[:depth], prompt[:depth])
        found[name] = _median(index.lookup, prompts, np.zeros(rows))
    return found


def _median(lookup: Callable[..., None], prompts: list[list[int]], out: Any) -> float:
    spent = []
    for prompt in prompts:
        begun = time.process_time()
        lookup(prompt, out)
        spent.append(time.process_time() - begun)
    return statistics.median(spent) * 1e6


def drop(pairs: int) -> dict[str, float]:
    """CPU time to forget a row, in all and the longest step, to copy it and to load it, in a full index [ms]."""
    observed = Observed(SEED)
    for batch in chains(ROWS, pairs, 4096, 1, SEED):
        observed.store(batch.row, GPU, batch.hashes, batch.keys)
    spent: dict[str, list[float]] = {"clear [ms]": [], "longest sweep [ms]": [], "all sweeps [ms]": []}
    spent |= {"copy [ms]": [], "load [ms]": []}
    for row in range(9):
        begun = time.process_time()
        contents = observed.contents(row)
        copied = time.process_time()
        observed.clear(row)
        at = cleared = time.process_time()
        longest, left = 0.0, True
        while left:
            left = observed.sweep()
            longest, at = max(longest, time.process_time() - at), time.process_time()
        observed.load(row, contents)
        loaded = time.process_time()
        figures = (cleared - copied, longest, at - cleared, copied - begun, loaded - at)
        for name, figure in zip(spent, figures, strict=True):
            spent[name].append(figure * 1e3)
    return {name: statistics.median(figures) for name, figures in spent.items()}


PARTS: dict[str, Callable[..., dict[str, float]]] = {"store": store, "size": size, "lookup": lookup, "drop": drop}


def _ours(part: str, *numbers: int) -> dict[str, float]:
    """One part, in a process of its own: memory that another part has left behind would flatter it."""
    return _asked([sys.executable, "-m", "bench.knowledge", "--part", part, *map(str, numbers)])


def _asked(command: list[str]) -> dict[str, float]:
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def lines(pairs: int = PAIRS) -> Iterator[str]:
    """Every figure of ours, with the goal that it has."""
    for call, goal in ((64, 500_000.0), (1, 100_000.0), (1024, 500_000.0)):
        found = _ours("store", call, pairs if call > 1 else pairs // 10)
        yield str(Goal(f"store in calls of {call} [blocks/s]", found["blocks/s"], goal, True))
        yield str(Goal(f"longest call of {call} [ms]", found["longest [ms]"], 20.0, False))
    for shared in (1, 4):
        for name, value in _ours("size", shared, pairs).items():
            yield str(Goal(f"each block at {shared} of {ROWS}, {name} [bytes]", value, 64.0, False))
    for rows in (ROWS, 65, 300):
        for name, value in _ours("lookup", rows, pairs).items():
            yield str(Goal(f"lookup of {PROMPT} blocks, {rows} rows, {name} [us]", value, 500.0, False))
    for name, value in _ours("drop", pairs).items():
        yield str(Goal(f"a row of {pairs // ROWS}: {name}", value, 50.0 if "all" in name else 20.0, False))


def peer_lines(python: str, pairs: int = PAIRS) -> Iterator[str]:
    """The peer's figures, or why there are none."""
    if subprocess.run([python, "-c", "import dynamo._core, numpy"], capture_output=True).returncode:
        yield f"RadixTree of ai-dynamo-runtime: not installed in {python}"
        return
    for call in (64, 1, 1024):
        numbers = [str(call), str(pairs if call > 1 else pairs // 10)]
        for name, value in _asked([python, "-m", "bench.radixtree", "store", *numbers]).items():
            yield f"      RadixTree, calls of {call}, {name}: {value:.1f}"
    for rows in (ROWS, 65, 300):
        for name, value in _asked([python, "-m", "bench.radixtree", "lookup", str(rows), str(pairs)]).items():
            yield f"      RadixTree, {rows} rows, {name}: {value:.1f}"


def main() -> None:
    """`python -m bench.knowledge`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=sys.executable, metavar="PYTHON", help="interpreter with ai-dynamo-runtime")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="(row, block) pairs in the index")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        part, *numbers = given.part
        print(json.dumps(PARTS[part](*map(int, numbers))))
        return
    for line in lines(given.pairs):
        print(line, flush=True)
    for line in peer_lines(given.peer, given.pairs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
