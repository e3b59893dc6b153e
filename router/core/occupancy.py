"""What each replica is expected to hold: its real capacity, in the engine's order of eviction.

Blocks are pinned while a request runs that uses them, and enter the LRU when the last such request is released, the
end of the chain first; generated tokens take room too. So a block is evicted after all that hang on it, and before
its parents.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import msgspec

from kvroute.router.core import segments
from kvroute.router.core.changes import Medium
from kvroute.router.core.index import Index
from kvroute.router.core.segments import Holding, Residue, Segment

UNKNOWN_CAPACITY = 2_000_000.0
"""What a replica of unknown capacity is believed to hold at most [tokens]; it bounds our memory."""
_TRUST = 1 / 512
"""Part of the way that a replica's limit goes back to its stated capacity when a report agrees."""
_UNEVEN = 1 / 4
"""Part by which a hit may fall short of its prediction although all is there: text is not evenly dense in tokens."""


class Pin(msgspec.Struct, eq=False, gc=False):
    """What one running request holds at a replica. Give it back with `Occupancy.release`."""

    row: int
    replica: Holding
    hit: int
    """Leading blocks believed to be there when it was reserved."""
    block_tokens: float
    tokens: int
    loose: float
    """Prompt tokens behind the last full block [tokens]."""
    leaf: Segment | None
    trail: list[tuple[int, int]]
    """(first depth, last release before this request) of the segments that were idle, deepest first."""
    open: bool = True


class Occupancy:
    """The expected cache of each replica, and the only writer of the index's expected side.

    Where KV events tell all, only what runs is expected: what was released lapses, for the events told of it.
    """

    def __init__(self, index: Index, doubt: float = 1 / 4) -> None:
        """`doubt`: part of the way that a replica's limit goes, at a shortfall, to what that shows to be too much."""
        self._index = index
        self._doubt = doubt
        self._replicas: dict[int, Holding] = {}
        self._capacity: dict[int, float] = {}
        self._lingering: dict[int, float] = {}
        self._lapsing: deque[tuple[float, int, Holding, int]] = deque()
        self.block_tokens: dict[int, float] = {}
        """Per row, what one observed block stands for [tokens]."""
        self.shortfalls = 0
        """Reports whose cached tokens fell short of the prediction by more than its tolerance."""
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
            doubted = replica.limit < 0.99 * replica.capacity
            replica.limit = min(capacity, replica.limit) if doubted else capacity
            replica.capacity = capacity
            self._evict(row, replica)

    def active_tokens(self, row: int) -> float:
        """Tokens pinned by running requests, shared blocks once [tokens]."""
        replica = self._replicas.get(row)
        return 0.0 if replica is None else replica.active

    def cached_tokens(self, row: int) -> float:
        """Tokens held at all, evictable ones included [tokens]."""
        replica = self._replicas.get(row)
        return 0.0 if replica is None else replica.cached

    def observed_tokens(self, row: int) -> float:
        """Tokens that KV events tell of, evictable ones included [tokens]."""
        return self._index.observed.blocks(row, Medium.GPU) * self.block_tokens.get(row, 0.0)

    def linger(self, row: int, seconds: float, now: float) -> None:
        """Released blocks lapse after so long, for KV events tell what the replica holds; inf: the LRU decides."""
        if math.isinf(seconds):
            self._lingering.pop(row, None)
            self.expect_again(row)
            return
        self._lingering[row] = seconds
        replica = self._replicas.get(row)
        if replica is not None:  # what was released before
            self._lapsing.append((now + seconds, row, replica, replica.clock))

    def lapse(self, now: float) -> None:
        """Let go of released blocks whose time is over."""
        lapsing = self._lapsing
        while lapsing and lapsing[0][0] <= now:
            _, row, replica, stamp = lapsing.popleft()
            if row in self._lingering and self._replicas.get(row) is replica:
                self._forget(row, replica, stamp)

    def idle(self, row: int) -> None:
        """The replica's cache was cleared: what no request holds is gone."""
        replica = self._replicas.get(row)
        if replica is not None:
            self._forget(row, replica, replica.clock)

    def expect_again(self, row: int) -> None:
        """What was observed there is forgotten: blocks that were not entered because they were known are entered."""
        replica = self._replicas.get(row)
        if replica is not None:
            for segment in replica.heads.values():
                self._index.add(row, segment.keys)

    def limit_tokens(self, row: int) -> float:
        """What the replica is taken to have room for: its capacity, or less where reports contradict it [tokens]."""
        replica = self._replicas.get(row)
        return self._capacity.get(row, UNKNOWN_CAPACITY) if replica is None else replica.limit

    def drop(self, row: int) -> None:
        """The replica lost its cache (restart, leave). Pins of requests still running there become void.

        What KV events told is left alone: they tell of the restart themselves, in their own order.
        """
        replica = self._replicas.pop(row, None)
        if replica is not None:
            for segment in replica.heads.values():
                self._index.remove(row, segment.keys)
        self._index.drop(row)

    def leave(self, row: int) -> None:
        """The replica is gone: nothing is known of whoever has its row next, not even the capacity. Pins as `drop`."""
        self.drop(row)
        self._index.observed.clear(row)
        self._capacity.pop(row, None)
        self._lingering.pop(row, None)
        self.block_tokens.pop(row, None)

    def reserve(self, row: int, keys: Sequence[int], block_tokens: float, tokens: int, known: int = 0) -> Pin:
        """Pin a prompt's blocks at a replica; those it lacks enter the index at once, as expected.

        `block_tokens` is what one block stands for, `tokens` the whole prompt, of all sequences [tokens]. A replica of
        no capacity shares nothing: its prefix caching is off, and each prompt takes room of its own while it runs.
        `known`: leading blocks that the index has for this row already; they are not entered again.
        """
        replica = self._replicas.get(row)
        if replica is None:
            replica = self._replicas[row] = Holding(self._capacity.get(row, UNKNOWN_CAPACITY))
        if replica.capacity <= 0.0:
            keys = ()
        hit, leaf = segments.descend(replica.heads, keys)
        if leaf is not None and leaf.end > hit:
            leaf = segments.split(replica, leaf, hit)
        count = len(keys)
        if hit < count:
            new = list(keys[hit:])
            leaf = segments.grow(replica, leaf, new, count, block_tokens)
            if known < count:
                self._index.add(row, new if known <= hit else new[known - hit :])
        trail: list[tuple[int, int]] = []
        if leaf is not None:
            replica.idle.pop(leaf, None)
            segments.activate(replica, leaf, trail)
        loose = tokens - count * block_tokens
        if loose < 0.0:
            loose = 0.0
        replica.pins += 1
        replica.active += loose
        replica.cached += loose
        if replica.cached > replica.limit:
            self._evict(row, replica)
        return Pin(row, replica, hit, block_tokens, tokens, loose, leaf, trail)

    def release(self, pin: Pin, output_tokens: int, completed: bool, now: float) -> None:
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
            segments.deactivate(replica, leaf)
            if completed:
                segments.confirm(leaf)
            else:
                leaf = self._withdraw(pin.row, replica, leaf)
        left = pin.loose + output_tokens if completed else 0.0
        if left:
            segments.leave(replica, leaf, left)
        if not completed:
            replica.cached -= pin.loose
        if leaf is not None and not leaf.active:
            replica.idle[leaf] = None
            replica.idle.move_to_end(leaf)
        if replica.cached > replica.limit:
            self._evict(pin.row, replica)
        seconds = self._lingering.get(pin.row)
        if seconds is not None:
            self._lapsing.append((now + seconds, pin.row, replica, replica.clock))

    def reported(self, pin: Pin, hit_tokens: int, prompt_tokens: int | None = None) -> None:
        """The engine's own count of this request's cached prompt tokens; before or after its release.

        With the engine's `prompt_tokens`, the share of the prompt is compared, which errors in `block_tokens` do not
        disturb. A hit well short of the prediction means that the engine had evicted the first missing block, and so
        everything that was last used no later: that is evicted here too. What is left is more than the engine had
        room for, so the limit moves a part of the way to it, and back with reports that agree: a capacity that is
        believed too large, or shared with others' traffic, is repaired. A hit beyond the prediction is only counted.
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
        if hit >= pin.hit - 1 - pin.hit * _UNEVEN:
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

    def _evict(self, row: int, replica: Holding) -> None:
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

    def _forget(self, row: int, replica: Holding, stamp: int) -> None:
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

    def _withdraw(self, row: int, replica: Holding, leaf: Segment) -> Segment | None:
        """Take back blocks that were only expected, end first; the deepest segment that stays is returned."""
        node: Segment | None = leaf
        while node is not None and not node.active and not node.children and node.sure < len(node.keys):
            parent = node.parent
            self._shrink(row, replica, node, len(node.keys) - node.sure)
            if node.keys:
                break
            node = parent
        return node

    def _shrink(self, row: int, replica: Holding, segment: Segment, blocks: int) -> None:
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
