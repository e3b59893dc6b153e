"""A replica's KV blocks: prefix lookup by chained key, reference counts, and eviction of the least recently released.

The order is vLLM's: blocks of running requests are pinned; a request's blocks are released tail first, so that a
chain is evicted from its end; blocks that hold nothing reusable are taken before any cached one. Equal content may
stand in several blocks at once (each copy is stored, and later removed, on its own).
"""

from __future__ import annotations

from collections.abc import Sequence


class PrefixCache:
    """The KV cache of one replica, in blocks. Blocks are named by small integers."""

    def __init__(self, blocks: int, block_size: int, blocks_per_key: int = 1) -> None:
        """`blocks` is what the engine reports (`num_gpu_blocks`); one of them is its null block and never used.

        `blocks_per_key`: so many blocks are found, released and evicted as one, under one key.
        """
        if blocks < 2:
            raise ValueError(f"a cache needs at least 2 blocks, not {blocks}")
        self.block_size = block_size
        self.capacity = blocks - 1
        """Usable blocks."""
        self.blocks_per_key = blocks_per_key
        self._followers: dict[int, list[int]] = {}
        """First block of a key -> the others, where a key stands for several."""
        self._following = [False] * self.capacity
        self._blank = list(range(self.capacity - 1, -1, -1))
        self._evictable: dict[int, None] = {}
        self._references = [0] * self.capacity
        self._keys: list[int | None] = [None] * self.capacity
        self._copies: dict[int, int | list[int]] = {}

    @property
    def free_blocks(self) -> int:
        """Blocks that no running request holds."""
        return len(self._blank) + len(self._evictable) * self.blocks_per_key

    @property
    def pinned_blocks(self) -> int:
        """Blocks that running requests hold."""
        return self.capacity - self.free_blocks

    @property
    def cached_blocks(self) -> int:
        """Blocks that hold reusable content, pinned ones included."""
        keys = sum(1 if isinstance(held, int) else len(held) for held in self._copies.values())
        return keys * self.blocks_per_key

    def match(self, keys: Sequence[int], most: int) -> list[int]:
        """Blocks of the longest cached prefix of `keys`, of at most `most` keys."""
        found: list[int] = []
        copies = self._copies
        for index in range(min(most, len(keys))):
            held = copies.get(keys[index])
            if held is None:
                break
            block = held if isinstance(held, int) else held[0]
            found.append(block)
            if self._followers:
                found += self._followers[block]
        return found

    def fits(self, matched: Sequence[int], fresh: int) -> bool:
        """Whether `matched` can be pinned and `fresh` more blocks taken."""
        references = self._references
        unpinned = sum(1 for block in matched if references[block] == 0)
        return fresh + unpinned <= self.free_blocks

    def pin(self, blocks: Sequence[int]) -> None:
        """Hold cached blocks for one more request."""
        references = self._references
        for block in blocks:
            if references[block] == 0 and not self._following[block]:
                del self._evictable[block]
            references[block] += 1

    def take(self, count: int, removed: list[int]) -> list[int]:
        """`count` blocks for new content. Keys evicted for them are appended to `removed`, in order."""
        taken: list[int] = []
        for _ in range(count):
            if self._blank:
                block = self._blank.pop()
            else:
                block = next(iter(self._evictable))
                del self._evictable[block]
                removed.append(self._forget(block))
            self._references[block] = 1
            taken.append(block)
        return taken

    def store(self, blocks: Sequence[int], key: int) -> None:
        """The `blocks_per_key` blocks are full: from now on they answer to `key`."""
        block = blocks[0]
        self._keys[block] = key
        if len(blocks) > 1:
            self._followers[block] = list(blocks[1:])
            for other in blocks[1:]:
                self._following[other] = True
        held = self._copies.get(key)
        if held is None:
            self._copies[key] = block
        elif isinstance(held, int):
            self._copies[key] = [held, block]
        else:
            held.append(block)

    def release(self, blocks: Sequence[int]) -> None:
        """One request lets go of its blocks: the last of them becomes the first to be evicted."""
        references = self._references
        for block in reversed(blocks):
            references[block] -= 1
            if references[block] or self._following[block]:
                continue
            if self._keys[block] is None:
                self._blank.append(block)
            else:
                self._evictable[block] = None

    def reset(self) -> bool:
        """Forget all content. Refused (False) while a request runs, as the engine refuses it."""
        if self.pinned_blocks:
            return False
        self._copies.clear()
        self._keys = [None] * self.capacity
        self._followers.clear()
        self._following = [False] * self.capacity
        self._blank = list(range(self.capacity - 1, -1, -1))
        self._evictable.clear()
        return True

    def _forget(self, block: int) -> int:
        for other in self._followers.pop(block, ()):
            self._following[other] = False
            self._blank.append(other)
        key = self._keys[block]
        assert key is not None, "an evictable block holds content"
        self._keys[block] = None
        held = self._copies[key]
        if isinstance(held, int):
            del self._copies[key]
        else:
            held.remove(block)
            if len(held) == 1:
                self._copies[key] = held[0]
        return key
