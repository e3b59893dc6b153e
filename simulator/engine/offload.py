"""The host's memory behind a replica's KV cache: what was evicted there can be brought back instead of computed."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence


class Offload:
    """Keys in the host's memory, the longest unused first, and the link to it."""

    def __init__(self, blocks: int, blocks_per_key: int, seconds_per_block: float) -> None:
        """`blocks`: its size. `seconds_per_block`: to bring one block back; one is brought after the other [s]."""
        self._most = blocks // blocks_per_key
        self._seconds = seconds_per_block * blocks_per_key
        self._keys: OrderedDict[int, None] = OrderedDict()
        self._busy = -math.inf

    def __len__(self) -> int:
        return len(self._keys)

    def admit(self, evicted: Iterable[int]) -> None:
        """Keep what the device's cache has just evicted, at the cost of what was unused for longest."""
        keys = self._keys
        for key in evicted:
            keys[key] = None
            keys.move_to_end(key)
        while len(keys) > self._most:
            keys.popitem(last=False)

    def match(self, keys: Sequence[int], first: int, most: int) -> int:
        """How many of `keys` from `first` on are here without a gap, up to the depth `most`."""
        held = self._keys
        depth = first
        most = min(most, len(keys))
        while depth < most and keys[depth] in held:
            depth += 1
        return max(0, depth - first)

    def load(self, keys: Sequence[int], first: int, count: int, now: float) -> float:
        """Bring keys back to the device, tail first as to their age; returns when they are there [s]."""
        for depth in range(first + count - 1, first - 1, -1):
            self._keys.move_to_end(keys[depth])
        self._busy = max(now, self._busy) + count * self._seconds
        return self._busy

    def clear(self) -> None:
        """Forget all of it."""
        self._keys.clear()
