"""The RadixTree of ai-dynamo-runtime on the blocks of `bench.knowledge`; it needs numpy and that package alone."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CHAIN = 2_048
"""Blocks of one prompt in the workload."""
PROMPTS = 16
Words = NDArray[np.uint64]


class Batch(NamedTuple):
    """One event: these blocks of one chain, on one row."""

    row: int
    chain: int
    parent: int | None
    """Engine hash of the block before the first; None at a chain's beginning."""
    hashes: Words
    keys: Words


def resident() -> int:
    """Resident memory of this process [bytes]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def chains(rows: int, pairs: int, call: int, shared: int, seed: int) -> Iterator[Batch]:
    """`pairs` blocks in events of `call`, the rows in turn; each chain is told by `shared` rows drawn for it."""
    rng = np.random.default_rng(seed)
    parents: dict[int, tuple[int, int]] = {}
    told = number = 0
    while told < pairs:
        for row in range(rows):
            holders = [row] if shared == 1 else rng.choice(rows, shared, replace=False).tolist()
            keys, hashes = rng.integers(0, 2**63, (2, call), np.uint64)
            length, last = parents.get(row, (0, 0))
            parent = last if length and shared == 1 else None
            for holder in holders:
                if told < pairs:
                    yield Batch(holder, number, parent, hashes, keys)
                    told += len(keys)
            length += len(keys)
            parents[row] = (length, int(hashes[-1])) if length < CHAIN else (0, 0)
            number += 1


def depths(rows: int, length: int, prompts: int, seed: int) -> Iterator[tuple[Words, list[int]]]:
    """Prompts, and how many leading blocks each row holds, drawn evenly."""
    rng = np.random.default_rng(seed + 1000)
    for _ in range(prompts):
        yield rng.integers(0, 2**63, length, np.uint64), rng.integers(1, length, rows, endpoint=True).tolist()


def event(number: int, batch: Batch) -> bytes:
    """The event as the tree takes it."""
    blocks = [
        {"block_hash": hash_, "tokens_hash": key}
        for hash_, key in zip(batch.hashes.tolist(), batch.keys.tolist(), strict=True)
    ]
    stored = {"parent_hash": batch.parent, "blocks": blocks}
    return json.dumps({"event_id": number, "data": {"stored": stored}, "dp_rank": 0}).encode()


def _tree() -> Any:
    from dynamo._core import RadixTree  # type: ignore[import-not-found]  # only where it is installed

    return RadixTree()


def _told(tree: Any, batches: Iterator[Batch]) -> float:
    """CPU time of telling the tree, its own thread included [s]; the JSON is made before, in groups."""
    spent = 0.0
    group: list[tuple[int, bytes]] = []
    for number, batch in enumerate(batches):
        group.append((batch.row, event(number, batch)))
        if len(group) == 256:
            spent += _apply(tree, group)
            group.clear()
    return spent + _apply(tree, group)


def _apply(tree: Any, group: list[tuple[int, bytes]]) -> float:
    begun = time.process_time()
    for row, data in group:
        tree.apply_event(row, data)
    tree.find_matches([1])  # answered after what was told
    return time.process_time() - begun


def store(call: int, pairs: int) -> dict[str, float]:
    """As `bench.knowledge.store` and `size`, from one process. The decoding of its JSON is part of the figure."""
    tree = _tree()
    before = resident()
    spent = _told(tree, chains(64, pairs, call, 1, 1))
    return {"blocks/s": pairs / spent, "bytes per pair": (resident() - before) / pairs}


def lookup(rows: int, pairs: int) -> dict[str, float]:
    """As `bench.knowledge.lookup`, and dropping a row."""
    tree = _tree()
    _told(tree, chains(rows, pairs, 1024, 1, 1))
    asked = []
    for prompt, held in depths(rows, CHAIN, PROMPTS, 1):
        told = (Batch(row, 0, None, prompt[:depth], prompt[:depth]) for row, depth in enumerate(held))
        _told(tree, told)
        asked.append(prompt.tolist())
    spent = []
    for prompt_list in asked:
        begun = time.process_time()
        tree.find_matches(prompt_list)
        spent.append(time.process_time() - begun)
    begun = time.process_time()
    tree.remove_worker(0)
    tree.find_matches([1])
    return {"lookup [us]": statistics.median(spent) * 1e6, "drop [ms]": (time.process_time() - begun) * 1e3}


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    print(json.dumps({"store": store, "lookup": lookup}[name](*map(int, numbers))))
