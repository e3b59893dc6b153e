"""Finds the place of orphans in prompts that were sent to their replica, a bounded number of hashes at a time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence

import xxhash

from kvroute.router.knowledge.events.orphans import Orphan, Orphans
from kvroute.router.knowledge.events.rehash import next_key

CHAINS = 64
"""Prompts that are remembered, the newest."""
MOST_KEYS = 65_536
"""Keys of all of them together."""
_TASKS = 1024
"""Searches that wait; the oldest is dropped."""
_AWAITED = 32
"""Unknown parents that a new prompt is compared with, the newest."""
_CHILDREN = 2
"""Orphans of each of them, the newest."""
_key = xxhash.xxh3_64_intdigest


class Anchors:
    """One replica's recent prompts, and what of its orphans is still to be compared with which.

    An orphan whose first tokens continue a prompt of keys k at depth d, `hash(tokens, seed=k[d-1]) == k[d]`, and whose
    event goes on as the prompt does, tells that its unknown parent is k[d-1]. Every depth of the prompt that an
    engine's block can begin at has to be tried.

    This can be wrong: where two prompts end alike, at block borders, behind different beginnings, and the one whose
    event it is was not sent from here. What is claimed then goes as soon as the engine evicts the orphan.
    """

    def __init__(self, orphans: Orphans) -> None:
        self._orphans = orphans
        self._chains: deque[Sequence[int]] = deque(maxlen=CHAINS)
        self._keys = 0
        self._new: deque[Sequence[int]] = deque(maxlen=CHAINS)
        self._tasks: deque[tuple[int, Sequence[int], int]] = deque(maxlen=_TASKS)

    def __bool__(self) -> bool:
        """Whether there is something to compare."""
        return bool(self._tasks or self._new)

    def sent(self, keys: Sequence[int]) -> None:
        """A prompt was sent to the replica. Cheap: it is compared with nothing yet. `keys` are kept, not copied."""
        if len(keys) < 2 or len(keys) > MOST_KEYS:
            return
        chains = self._chains
        if len(chains) == CHAINS:
            self._keys -= len(chains.popleft())
        chains.append(keys)
        self._keys += len(keys)
        while self._keys > MOST_KEYS:
            self._keys -= len(chains.popleft())
        if len(self._orphans):
            self._new.append(keys)

    def orphaned(self, hash_: int) -> None:
        """A new orphan whose parent is unknown: to be compared with the prompts remembered, the newest first."""
        self._tasks.extend((hash_, chain, 0) for chain in reversed(self._chains))

    def clear(self) -> None:
        """Nothing is to be compared any more; the prompts stay."""
        self._tasks.clear()
        self._new.clear()

    def search(self, hashes: int) -> Iterator[tuple[int, int]]:
        """(engine hash, key) of parents that were found, for about so many hashes of work. The caller adopts each."""
        self._plan()
        tasks = self._tasks
        while tasks and hashes > 0:
            hash_, chain, at = tasks.popleft()
            orphan = self._orphans.get(hash_)
            if orphan is None or orphan.mixed is not None or self._orphans.get(orphan.parent) is not None:
                continue
            step = len(orphan.data) // orphan.own_bytes
            tried = range(max(at, step), len(chain), step)[:hashes]
            hashes -= len(tried) + 1
            first = orphan.data[: orphan.own_bytes]
            depths = (depth for depth in tried if _key(first, chain[depth - 1]) == chain[depth])
            depth = next((depth for depth in depths if self._agrees(orphan, chain, depth)), None)
            if depth is not None:
                yield orphan.parent, chain[depth - 1]
            elif tried and tried[-1] + step < len(chain):
                tasks.appendleft((hash_, chain, tried[-1] + step))

    def _agrees(self, orphan: Orphan | None, chain: Sequence[int], depth: int) -> bool:
        """Whether the orphan's event, as far as it reaches, is what the prompt has from this depth on."""
        key = chain[depth - 1]
        while orphan is not None:
            depth += len(orphan.data) // orphan.own_bytes
            if depth > len(chain):
                break
            key = next_key(key, orphan.data, orphan.own_bytes, orphan.mixed)
            if key != chain[depth - 1]:
                return False
            orphan = None if orphan.following is None else self._orphans.get(orphan.following)
        return True

    def _plan(self) -> None:
        """Compare new prompts with the newest orphans: few of each unknown parent are enough."""
        while self._new:
            chain = self._new.pop()
            for parent in itertools.islice(self._orphans.roots(), _AWAITED):
                for child in itertools.islice(self._orphans.children(parent), _CHILDREN):
                    self._tasks.append((child, chain, 0))
