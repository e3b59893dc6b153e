"""A replica's KV cache in stretches: what `PrefixCache` does block by block, at the cost of a request's stretches.

Keys are chained, so a key says where it stands and what stands before it. A `Run` is a stretch of one chain whose keys
are pinned, released and evicted as one, up to some depth; it is split where a request turns off. Order of eviction:
blocks that hold nothing, then runs as they were released, each from its end. A holder keeps the deepest run of its
path, those above it follow by `upper`.

A key that is cached already and is computed again (a prompt that is cached whole recomputes its end; two sequences
write the same text at once) stands in a second copy, a run of that one key. Copies take room and age on their own;
the oldest is the one that is found.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol


class Run:
    """A stretch of one chain."""

    __slots__ = ("copy", "keys", "refs", "start", "upper")

    def __init__(self, start: int, keys: list[int], refs: int, upper: Run | None, copy: bool = False) -> None:
        self.start = start
        """Depth of its first key in the chain."""
        self.keys = keys
        self.refs = refs
        """Holders; without any it waits in the LRU."""
        self.upper = upper
        """What its holders hold before it."""
        self.copy = copy
        """An older run holds its (only) key; this one is not found."""


class Holder(Protocol):
    """Who holds a path of runs, by its last one."""

    leaf: Run | None
    base: int
    """Depth up to which `upper` leads from the leaf."""
    breaks: list[tuple[Run, int]] | None
    """(leaf, base) of the parts of the path before that: where copies exist, `upper` is not always its own."""


class RadixCache:
    """The KV cache of one replica: counts of blocks, and the keys that they holder."""

    def __init__(self, blocks: int, blocks_per_key: int = 1) -> None:
        """`blocks` is what the engine reports (`num_gpu_blocks`); one of them is its null block and never used."""
        if blocks < 2:
            raise ValueError(f"a cache needs at least 2 blocks, not {blocks}")
        self.capacity = blocks - 1
        """Usable blocks."""
        self.blocks_per_key = blocks_per_key
        self.blank = self.capacity
        """Blocks that hold nothing reusable and that nobody holds; who takes more calls `evict`."""
        self.idle_keys = 0
        """Keys in runs that nobody holds."""
        self._heads: dict[int, Run] = {}
        """First key of each run that can be found -> the run."""
        self._idle: OrderedDict[Run, None] = OrderedDict()
        self._copies: dict[int, list[Run]] = {}
        """Further runs of a key, oldest first."""

    @property
    def free_blocks(self) -> int:
        """Blocks that no running request holds."""
        return self.blank + self.idle_keys * self.blocks_per_key

    @property
    def pinned_blocks(self) -> int:
        """Blocks that running requests holder."""
        return self.capacity - self.free_blocks

    def match(self, keys: Sequence[int], most: int) -> tuple[int, list[Run], int]:
        """How many leading keys are cached (at most `most`), in which runs, and how many of them nobody holds."""
        heads = self._heads
        count = len(keys)
        if most < count:
            count = most
        depth = idle = 0
        path: list[Run] = []
        while depth < count:
            run = heads.get(keys[depth])
            if run is None or run.start != depth:
                break
            theirs = run.keys
            size = len(theirs)
            if size > count - depth or keys[depth + size - 1] != theirs[size - 1]:
                size = _common(theirs, keys, depth, min(size, count - depth))
            path.append(run)
            if not run.refs:
                idle += size
            depth += size
        return depth, path, idle

    def pin(self, holder: Holder, path: list[Run], hit: int) -> None:
        """Hold the `hit` keys that `match` has just found."""
        upper: Run | None = None
        for index, run in enumerate(path, 1):
            stop = path[index].start if index < len(path) else hit
            if stop < run.start + len(run.keys):
                run = self._split(run, stop)
            if not run.refs:
                self.idle_keys -= len(run.keys)
                self._idle.pop(run, None)
                run.upper = upper
            elif run.upper is not upper:
                assert upper is not None
                holder.breaks = [*(holder.breaks or ()), (upper, holder.base)]
                holder.base = run.start
            run.refs += 1
            upper = run
        holder.leaf = upper

    def store(self, holder: Holder, keys: Sequence[int], first: int, last: int) -> None:
        """Keys `first .. last` are full: they are found from now on, behind what is held already."""
        leaf = holder.leaf
        if (leaf is not None and leaf.copy) or keys[first] in self._heads:
            present = min(self.match(keys, last)[0], last)
            while first < present:
                leaf = Run(first, [keys[first]], 1, leaf, copy=True)
                self._copies.setdefault(keys[first], []).append(leaf)
                first += 1
            holder.leaf = leaf
            if first >= last:
                return
        if leaf is not None and leaf.refs == 1 and not leaf.copy:
            leaf.keys += keys[first:last]
        else:
            holder.leaf = self._heads[keys[first]] = Run(first, list(keys[first:last]), 1, leaf)

    def evict(self, removed: list[int] | None) -> None:
        """Make room: from the front of the LRU, until `blank`, that was overdrawn, is not negative.

        Evicted keys are appended to `removed`, in order.
        """
        each = self.blocks_per_key
        idle = self._idle
        while self.blank < 0:
            run = next(iter(idle))
            keys = run.keys
            count = -(self.blank // each)
            if count >= len(keys):
                count = len(keys)
                del idle[run]
                gone = keys
                if not run.copy:
                    del self._heads[keys[0]]
            else:
                gone = keys[-count:]
                del keys[-count:]
            self.blank += count * each
            self.idle_keys -= count
            if self._copies:
                self._uncover(run, gone)
            if removed is not None:
                removed.extend(reversed(gone))

    def release(self, holder: Holder, loose: int) -> None:
        """A holder lets go: its `loose` blocks, that hold no key, and its path, the end of which is evicted first."""
        self.blank += loose
        run = holder.leaf
        if run is None:
            return
        holder.leaf = None
        base = holder.base
        idle = self._idle
        while True:
            run.refs -= 1
            if not run.refs:
                idle[run] = None
                self.idle_keys += len(run.keys)
            if run.start > base:
                assert run.upper is not None
                run = run.upper
            elif holder.breaks:
                run, base = holder.breaks.pop()
            else:
                break
        holder.breaks = None
        holder.base = 0

    def reset(self) -> bool:
        """Forget all content. Refused (False) while a request runs, as the engine refuses it."""
        if self.free_blocks < self.capacity:
            return False
        self._heads.clear()
        self._idle.clear()
        self._copies.clear()
        self.blank = self.capacity
        self.idle_keys = 0
        return True

    def _split(self, run: Run, depth: int) -> Run:
        """Cut a run at `depth` and return the upper part; it keeps its place and its holders as the lower part."""
        count = depth - run.start
        head = Run(run.start, run.keys[:count], run.refs, run.upper)
        run.keys = run.keys[count:]
        run.start = depth
        run.upper = head
        self._heads[head.keys[0]] = head
        self._heads[run.keys[0]] = run
        return head

    def _uncover(self, run: Run, gone: list[int]) -> None:
        """What is found where the copies that were found are gone: the oldest of the others."""
        copies = self._copies
        for key in gone:
            others = copies.get(key)
            if others is None:
                continue
            if run.copy:
                others.remove(run)
            else:
                other = self._heads[key] = others.pop(0)
                other.copy = False
            if not others:
                del copies[key]


def _common(theirs: list[int], keys: Sequence[int], depth: int, most: int) -> int:
    """Length of the common beginning of a run and of `keys` from `depth`; at least 1, at most `most`."""
    low, high = 1, most + 1
    while high - low > 1:
        middle = (low + high) >> 1
        if keys[depth + middle - 1] == theirs[middle - 1]:
            low = middle
        else:
            high = middle
    return low
