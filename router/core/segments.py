"""One replica's expected blocks as a radix tree of segments, and the idle ones in the order of their eviction.

A segment is a stretch of one chain whose blocks are pinned, released and evicted as one, up to some depth. A pin
holds the deepest segment only, its parents by implication; so a request costs its new blocks, not its whole prompt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

_GATHERED = 1 / 64
"""Share of the capacity up to which keyless tokens of different times are one entry, evicted with the oldest."""


class Segment(msgspec.Struct, eq=False, gc=False):
    """A stretch of one chain whose blocks are pinned and released together, up to some depth."""

    parent: Segment | None
    keys: list[int]
    end: int
    """Depth behind its last block, counted from the root of the chain [blocks]."""
    tokens: float
    sure: int = 0
    """Leading blocks that some request's first output has confirmed; the others are only expected."""
    children: int = 0
    active: int = 0
    """Running requests that end here, plus children that are active."""
    stamp: int = 0
    """When it was last released, in releases of its replica."""
    residue: Residue | None = None


class Residue(msgspec.Struct, eq=False, gc=False):
    """Tokens in the cache that have no key of ours: generated ones, and a prompt's end behind its last full block."""

    tokens: float
    stamp: int


class Holding:
    """One replica's segments, and the idle ones in the order of their eviction."""

    __slots__ = ("active", "cached", "capacity", "clock", "heads", "idle", "limit", "nameless", "pins")

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.limit = capacity
        """What it is taken to hold: its capacity, or less where its reports contradict that [tokens]."""
        self.heads: dict[int, Segment] = {}
        """First key of each segment -> the segment."""
        self.idle: OrderedDict[Segment | Residue, None] = OrderedDict()
        self.nameless: Residue | None = None
        """Gathers what no segment names, until it is a large part of the cache."""
        self.active = 0.0
        self.cached = 0.0
        self.pins = 0
        self.clock = 0


def descend(heads: dict[int, Segment], keys: Sequence[int]) -> tuple[int, Segment | None]:
    """How many leading keys are covered, and the segment that holds the last of those."""
    depth, count = 0, len(keys)
    segment = None
    while depth < count:
        node = heads.get(keys[depth])
        if node is None or node.end - len(node.keys) != depth:
            break
        segment = node
        if node.end <= count and keys[node.end - 1] == node.keys[-1]:
            depth = node.end
            continue
        low, high = 1, min(len(node.keys), count - depth + 1)
        while high - low > 1:
            middle = (low + high) >> 1
            if keys[depth + middle - 1] == node.keys[middle - 1]:
                low = middle
            else:
                high = middle
        return depth + low, segment
    return depth, segment


def split(replica: Holding, segment: Segment, depth: int) -> Segment:
    """Cut a segment behind the block at `depth` and return the upper part; pins below keep the lower one."""
    count = len(segment.keys) - (segment.end - depth)
    head = Segment(segment.parent, segment.keys[:count], depth, segment.tokens * count / len(segment.keys))
    head.sure = min(segment.sure, count)
    head.stamp = segment.stamp
    head.children = 1
    head.active = 1 if segment.active else 0
    segment.parent = head
    segment.keys = segment.keys[count:]
    segment.tokens -= head.tokens
    segment.sure -= head.sure
    replica.heads[head.keys[0]] = head
    replica.heads[segment.keys[0]] = segment
    return head


def grow(replica: Holding, leaf: Segment | None, new: list[int], end: int, block_tokens: float) -> Segment:
    """Append expected blocks behind `leaf`: in place where nothing else depends on it, else as its child.

    The residue left there last is taken to be the beginning of the new blocks: a conversation's next turn repeats
    what was generated.
    """
    tokens = len(new) * block_tokens
    replica.cached += tokens
    if leaf is not None and leaf.residue is not None:
        if leaf.residue in replica.idle:
            replica.cached -= leaf.residue.tokens
            del replica.idle[leaf.residue]
        leaf.residue = None
    if leaf is not None and not leaf.active and not leaf.children:
        leaf.keys += new
        leaf.tokens += tokens
        leaf.end = end
    else:
        if leaf is not None:
            leaf.children += 1
        leaf = replica.heads[new[0]] = Segment(leaf, new, end, tokens)
    return leaf


def activate(replica: Holding, leaf: Segment, trail: list[tuple[int, int]]) -> None:
    """Pin a segment, and its parents up to the first that is pinned already."""
    node: Segment | None = leaf
    while node is not None:
        node.active += 1
        if node.active > 1:
            return
        replica.active += node.tokens
        trail.append((node.end - len(node.keys), node.stamp))
        node = node.parent


def deactivate(replica: Holding, leaf: Segment) -> None:
    """Unpin a segment, and each parent that nothing else pins; they bear the time of this release."""
    node: Segment | None = leaf
    while node is not None:
        node.active -= 1
        if node.active:
            return
        if replica.pins:
            replica.active -= node.tokens
        node.stamp = replica.clock
        node = node.parent


def confirm(leaf: Segment) -> None:
    """All blocks up to the end of `leaf` were computed. Parents of what is confirmed are confirmed."""
    node: Segment | None = leaf
    while node is not None and node.sure < len(node.keys):
        node.sure = len(node.keys)
        node = node.parent


def leave(replica: Holding, leaf: Segment | None, tokens: float) -> None:
    """Enter a released request's keyless tokens, before its blocks: they are the end of its chain.

    A segment names those that were left there last. What was left before, by the same prompt, is gathered with what
    prompts without a block leave: it stays in the cache until its turn comes, but one entry each would have no end.
    """
    idle = replica.idle
    if leaf is None:
        _gather(replica, tokens)
        return
    if leaf.residue is not None and leaf.residue in idle:
        del idle[leaf.residue]
        _gather(replica, leaf.residue.tokens)
    leaf.residue = Residue(tokens, replica.clock)
    idle[leaf.residue] = None


def _gather(replica: Holding, tokens: float) -> None:
    """Keyless tokens that nobody names, in as many entries as there are 64ths of the cache."""
    nameless = replica.nameless
    if nameless is not None and nameless in replica.idle and nameless.tokens < replica.capacity * _GATHERED:
        nameless.tokens += tokens  # at its old place: within that share the order is not kept
        return
    replica.nameless = Residue(tokens, replica.clock)
    replica.idle[replica.nameless] = None
