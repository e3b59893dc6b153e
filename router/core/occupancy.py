"""What each replica is expected to hold: its real capacity, in the engine's order of eviction.

Blocks are pinned while a request runs that uses them, and enter the LRU when the last such request is released, the
end of the chain first; generated tokens take room too. So a block is evicted after all that hang on it, and before
its parents. That makes whole stretches of a chain live and die alike, and they are kept as one segment of a radix
tree: a pin holds the deepest segment only, its parents by implication, and the cost of a request is its new blocks.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from kvroute.router.core.index import Index

UNKNOWN_CAPACITY = 2_000_000.0
"""What a replica of unknown capacity is believed to hold at most [tokens]; it bounds our memory."""
_TRUST = 1 / 512
"""Part of the way that a replica's limit goes back to its stated capacity when a report agrees."""


class Segment:
    """A stretch of one chain whose blocks are pinned and released together, up to some depth."""

    __slots__ = ("active", "children", "end", "keys", "parent", "residue", "stamp", "sure", "tokens")

    def __init__(self, parent: Segment | None, keys: list[int], end: int, tokens: float) -> None:
        self.parent = parent
        self.keys = keys
        self.end = end
        """Depth behind its last block, counted from the root of the chain [blocks]."""
        self.tokens = tokens
        self.sure = 0
        """Leading blocks that some request's first output has confirmed; the others are only expected."""
        self.children = 0
        self.active = 0
        """Running requests that end here, plus children that are active."""
        self.stamp = 0
        """When it was last released, in releases of its replica."""
        self.residue: Residue | None = None


class Residue:
    """Tokens in the cache that have no key of ours: generated ones, and a prompt's end behind its last full block."""

    __slots__ = ("keyed", "stamp", "tokens")

    def __init__(self, tokens: float, stamp: int, keyed: bool) -> None:
        self.tokens = tokens
        self.stamp = stamp
        self.keyed = keyed
        """Whether a segment names it as its own; the others may be merged."""


class Replica:
    """One replica's segments, and the idle ones in the order of their eviction."""

    __slots__ = ("active", "cached", "capacity", "clock", "heads", "idle", "limit", "pins")

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.limit = capacity
        """What it is taken to hold: its capacity, or less where its reports contradict that [tokens]."""
        self.heads: dict[int, Segment] = {}
        """First key of each segment -> the segment."""
        self.idle: OrderedDict[Segment | Residue, None] = OrderedDict()
        self.active = 0.0
        self.cached = 0.0
        self.pins = 0
        self.clock = 0


class Pin:
    """What one running request holds at a replica. Give it back with `Occupancy.release`."""

    __slots__ = ("block_tokens", "hit", "leaf", "loose", "open", "replica", "row", "tokens", "trail")

    def __init__(self, row: int, replica: Replica, hit: int, block_tokens: float, tokens: int) -> None:
        self.row = row
        self.replica = replica
        self.hit = hit
        """Leading blocks believed to be there when it was reserved."""
        self.block_tokens = block_tokens
        self.tokens = tokens
        self.leaf: Segment | None = None
        self.loose = 0.0
        """Prompt tokens behind the last full block [tokens]."""
        self.trail: list[tuple[int, int]] = []
        """(first depth, last release before this request) of the segments that were idle, deepest first."""
        self.open = True


class Occupancy:
    """The expected cache of each replica. It is the only writer of the index for replicas without KV events."""

    def __init__(self, index: Index, doubt: float = 1 / 4) -> None:
        """`doubt`: part of the way that a replica's limit goes, at a shortfall, to what that shows to be too much."""
        self._index = index
        self._doubt = doubt
        self._replicas: dict[int, Replica] = {}
        self._capacity: dict[int, float] = {}
        self.shortfalls = 0
        """Reports that counted more than a block fewer cached tokens than predicted."""
        self.shortfall_tokens = 0.0
        self.excesses = 0
        """Reports that counted more than a block more than predicted."""
        self.excess_tokens = 0.0

    def set_capacity(self, row: int, tokens: float) -> None:
        """The replica's KV cache size [tokens]; inf = unknown, for which `UNKNOWN_CAPACITY` is taken."""
        capacity = UNKNOWN_CAPACITY if math.isinf(tokens) else tokens
        self._capacity[row] = capacity
        replica = self._replicas.get(row)
        if replica is not None and replica.capacity != capacity:
            replica.capacity = replica.limit = capacity
            self._evict(row, replica)

    def active_tokens(self, row: int) -> float:
        """Tokens pinned by running requests, shared blocks once [tokens]."""
        replica = self._replicas.get(row)
        return 0.0 if replica is None else replica.active

    def cached_tokens(self, row: int) -> float:
        """Tokens held at all, evictable ones included [tokens]."""
        replica = self._replicas.get(row)
        return 0.0 if replica is None else replica.cached

    def drop(self, row: int) -> None:
        """The replica lost its cache (restart, leave). Pins of requests still running there become void."""
        replica = self._replicas.pop(row, None)
        if replica is not None:
            for segment in replica.heads.values():
                self._index.remove(row, segment.keys)
        self._index.drop(row)

    def reserve(self, row: int, keys: list[int], block_tokens: float, tokens: int) -> Pin:
        """Pin a prompt's blocks at a replica; those it lacks enter the index at once, as expected.

        `block_tokens` is what one block stands for, `tokens` the whole prompt, of all sequences [tokens].
        """
        replica = self._replicas.get(row)
        if replica is None:
            replica = self._replicas[row] = Replica(self._capacity.get(row, UNKNOWN_CAPACITY))
        hit, leaf = _descend(replica.heads, keys)
        if leaf is not None and leaf.end > hit:
            leaf = _split(replica, leaf, hit)
        pin = Pin(row, replica, hit, block_tokens, tokens)
        pin.loose = max(0.0, tokens - len(keys) * block_tokens)
        if hit < len(keys):
            new = keys[hit:]
            leaf = _grow(replica, leaf, new, hit + len(new), block_tokens)
            self._index.add(row, new)
        if leaf is not None:
            replica.idle.pop(leaf, None)
            pin.leaf = leaf
            _activate(replica, leaf, pin.trail)
        replica.pins += 1
        replica.active += pin.loose
        replica.cached += pin.loose
        if replica.cached > replica.limit:
            self._evict(row, replica)
        return pin

    def release(self, pin: Pin, output_tokens: int, completed: bool) -> None:
        """The request has left the replica. A second release changes nothing.

        `completed`: its first output was seen, so its prompt was computed. Otherwise the blocks that it alone was
        expected to bring are withdrawn. `output_tokens`: what it generated [tokens].
        """
        replica = pin.replica
        if not pin.open or self._replicas.get(pin.row) is not replica:
            return
        pin.open = False
        if completed and output_tokens:
            replica.cached += output_tokens
            if replica.cached > replica.limit:  # they took room while this request was still running
                self._evict(pin.row, replica)
        replica.pins -= 1
        replica.active = replica.active - pin.loose if replica.pins else 0.0
        replica.clock += 1
        leaf = pin.leaf
        if leaf is not None:
            _deactivate(replica, leaf)
            if completed:
                _confirm(leaf)
            else:
                leaf = self._withdraw(pin.row, replica, leaf)
        left = pin.loose + output_tokens if completed else 0.0
        if left:
            _leave(replica, leaf, left)
        if not completed:
            replica.cached -= pin.loose
        if leaf is not None and not leaf.active:
            replica.idle[leaf] = None
            replica.idle.move_to_end(leaf)
        if replica.cached > replica.limit:
            self._evict(pin.row, replica)

    def reported(self, pin: Pin, hit_tokens: int, prompt_tokens: int | None = None) -> None:
        """The engine's own count of this request's cached prompt tokens; before or after its release.

        With the engine's `prompt_tokens`, the share of the prompt is compared, which errors in `block_tokens` do not
        disturb. A hit more than a block short of the prediction means that the engine had evicted the first missing
        block, and so everything that was last used no later: that is evicted here too. What is left is more than the
        engine had room for, so the limit moves towards it: a capacity that is believed too large, or shared with
        others' traffic, is repaired. A hit beyond the prediction is only counted.
        """
        if prompt_tokens:
            hit = hit_tokens * pin.tokens / prompt_tokens / pin.block_tokens
        else:
            hit = hit_tokens / pin.block_tokens
        if hit > pin.hit + 1:
            self.excesses += 1
            self.excess_tokens += (hit - pin.hit) * pin.block_tokens
        replica = pin.replica
        current = self._replicas.get(pin.row) is replica
        if hit >= pin.hit - 1:
            if current and pin.hit:
                replica.limit += (replica.capacity - replica.limit) * _TRUST
            return
        self.shortfalls += 1
        self.shortfall_tokens += (pin.hit - hit) * pin.block_tokens
        missing = math.ceil(hit)
        stamps = [stamp for start, stamp in pin.trail if start <= missing]
        if current and stamps:
            self._forget(pin.row, replica, stamps[0])
            replica.limit += min(0.0, replica.cached - replica.limit) * self._doubt

    def _evict(self, row: int, replica: Replica) -> None:
        """Make room: from the front of the LRU, until what is held fits or all of it is pinned."""
        idle = replica.idle
        while replica.cached > replica.limit and idle:
            item = next(iter(idle))
            excess = replica.cached - replica.limit
            if isinstance(item, Residue):
                if item.tokens > excess:
                    item.tokens -= excess
                    replica.cached = replica.limit
                else:
                    replica.cached -= item.tokens
                    del idle[item]
            elif item.active or item.children:
                del idle[item]
            else:
                self._shrink(row, replica, item, math.ceil(excess * len(item.keys) / item.tokens))

    def _forget(self, row: int, replica: Replica, stamp: int) -> None:
        """Evict everything that was last used no later than the release `stamp`."""
        idle = replica.idle
        while idle:
            item = next(iter(idle))
            if item.stamp > stamp:
                return
            if isinstance(item, Residue):
                replica.cached -= item.tokens
                del idle[item]
            elif item.active or item.children:
                del idle[item]
            else:
                self._shrink(row, replica, item, len(item.keys))

    def _withdraw(self, row: int, replica: Replica, leaf: Segment) -> Segment | None:
        """Take back blocks that were only expected, end first; the deepest segment that stays is returned."""
        node: Segment | None = leaf
        while node is not None and not node.active and not node.children and node.sure < len(node.keys):
            parent = node.parent
            self._shrink(row, replica, node, len(node.keys) - node.sure)
            if node.keys:
                break
            node = parent
        return node

    def _shrink(self, row: int, replica: Replica, segment: Segment, blocks: int) -> None:
        """Evict blocks from the end of an idle leaf; when it is empty, its parent is next in line."""
        keys = segment.keys
        if blocks >= len(keys):
            gone = keys
            replica.cached -= segment.tokens
            segment.keys = []
            segment.tokens = 0.0
        else:
            gone = keys[-blocks:]
            del keys[-blocks:]
            taken = segment.tokens * len(gone) / (len(keys) + len(gone))
            segment.tokens -= taken
            replica.cached -= taken
        segment.end -= len(gone)
        segment.sure = min(segment.sure, len(segment.keys))
        segment.residue = None
        self._index.remove(row, gone)
        if segment.keys:
            return
        replica.heads.pop(gone[0], None)
        idle = replica.idle
        idle.pop(segment, None)
        parent = segment.parent
        if parent is not None:
            parent.children -= 1
            if not parent.children and not parent.active and parent not in idle:
                idle[parent] = None
                idle.move_to_end(parent, last=False)


def _descend(heads: dict[int, Segment], keys: list[int]) -> tuple[int, Segment | None]:
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


def _split(replica: Replica, segment: Segment, depth: int) -> Segment:
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


def _grow(replica: Replica, leaf: Segment | None, new: list[int], end: int, block_tokens: float) -> Segment:
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


def _activate(replica: Replica, leaf: Segment, trail: list[tuple[int, int]]) -> None:
    """Pin a segment, and its parents up to the first that is pinned already."""
    node: Segment | None = leaf
    while node is not None:
        node.active += 1
        if node.active > 1:
            return
        replica.active += node.tokens
        trail.append((node.end - len(node.keys), node.stamp))
        node = node.parent


def _deactivate(replica: Replica, leaf: Segment) -> None:
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


def _confirm(leaf: Segment) -> None:
    """All blocks up to the end of `leaf` were computed. Parents of what is confirmed are confirmed."""
    node: Segment | None = leaf
    while node is not None and node.sure < len(node.keys):
        node.sure = len(node.keys)
        node = node.parent


def _leave(replica: Replica, leaf: Segment | None, tokens: float) -> None:
    """Enter a released request's keyless tokens, before its blocks: they are the end of its chain."""
    idle = replica.idle
    last = next(reversed(idle)) if idle else None
    if isinstance(last, Residue) and (not last.keyed if leaf is None else leaf.residue is last):
        last.tokens += tokens
        last.stamp = replica.clock
        return
    residue = Residue(tokens, replica.clock, leaf is not None)
    idle[residue] = None
    if leaf is not None:
        leaf.residue = residue
