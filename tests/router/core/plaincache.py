"""A replica's cache kept block by block, as an engine keeps it: the model that occupancy is compared with."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

BLOCK = 16


@dataclass(eq=False)
class Block:
    """One block: who uses it, whether it was computed, when it was last released."""

    chain: tuple[int, ...]
    users: int = 0
    sure: bool = False
    stamp: int = 0
    residue: Rest | None = None


@dataclass(eq=False)
class Rest:
    """Tokens without a key, left by a released request."""

    tokens: float
    stamp: int


@dataclass(eq=False)
class Use:
    """A running request's blocks, and the last release of those that were idle when it came."""

    blocks: list[Block]
    hit: int
    loose: float
    stamps: list[int | None] = field(default_factory=list)


class PlainCache:
    """Pins are counts per block, the LRU an ordered list of single blocks."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.blocks: dict[tuple[int, ...], Block] = {}
        self.idle: OrderedDict[Block | Rest, None] = OrderedDict()
        self.uses: list[Use] = []
        self.clock = 0
        self.nameless: Rest | None = None

    @property
    def cached(self) -> float:
        rests = sum(item.tokens for item in self.idle if isinstance(item, Rest))
        return len(self.blocks) * BLOCK + rests + sum(use.loose for use in self.uses)

    @property
    def active(self) -> float:
        return sum(BLOCK for block in self.blocks.values() if block.users) + sum(use.loose for use in self.uses)

    def depth(self, chain: tuple[int, ...]) -> int:
        depth = 0
        while depth < len(chain) and chain[: depth + 1] in self.blocks:
            depth += 1
        return depth

    def reserve(self, chain: tuple[int, ...], tokens: int) -> Use:
        hit = self.depth(chain)
        use = Use([], hit, max(0, tokens - len(chain) * BLOCK))
        if 0 < hit < len(chain):
            deepest = self.blocks[chain[:hit]]
            if deepest.residue is not None:
                self.idle.pop(deepest.residue, None)
                deepest.residue = None
        for end in range(1, len(chain) + 1):
            block = self.blocks.setdefault(chain[:end], Block(chain[:end]))
            if end <= hit:
                use.stamps.append(None if block.users else block.stamp)
            block.users += 1
            self.idle.pop(block, None)
            use.blocks.append(block)
        self.uses.append(use)
        self.evict(0)
        return use

    def release(self, use: Use, output: int, completed: bool) -> None:
        if completed:
            self.evict(output)
        self.uses.remove(use)
        self.clock += 1
        if completed and use.loose + output:
            self.leave(use.blocks[-1] if use.blocks else None, use.loose + output)
        for block in reversed(use.blocks):
            block.users -= 1
            block.sure = block.sure or completed
            if block.users:
                continue
            block.stamp = self.clock
            if block.sure:
                self.idle[block] = None
            else:
                del self.blocks[block.chain]
        self.evict(0)

    def leave(self, leaf: Block | None, tokens: float) -> None:
        if leaf is None:
            self.gather(tokens)
            return
        if leaf.residue is not None and leaf.residue in self.idle:
            del self.idle[leaf.residue]
            self.gather(leaf.residue.tokens)
        leaf.residue = Rest(tokens, self.clock)
        self.idle[leaf.residue] = None

    def gather(self, tokens: float) -> None:
        if self.nameless is not None and self.nameless in self.idle and self.nameless.tokens < self.capacity / 64:
            self.nameless.tokens += tokens
            return
        self.nameless = Rest(tokens, self.clock)
        self.idle[self.nameless] = None

    def evict(self, growth: float) -> None:
        while self.cached + growth > self.capacity and self.idle:
            item = next(iter(self.idle))
            if isinstance(item, Rest):
                item.tokens -= min(item.tokens, self.cached + growth - self.capacity)
                if not item.tokens:
                    del self.idle[item]
            else:
                self.forget(item)

    def forget(self, item: Block | Rest) -> None:
        del self.idle[item]
        if isinstance(item, Block):
            del self.blocks[item.chain]

    def reported(self, use: Use, hit: int) -> None:
        blocks = hit / BLOCK
        if blocks >= use.hit - 1 - use.hit / 4:
            return
        stamp = use.stamps[math.ceil(blocks)]
        if stamp is None:
            return
        for item in [item for item in self.idle if item.stamp <= stamp]:
            self.forget(item)
