"""Blocks of an event in our own keys: the same chain that the token lens makes of a prompt."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import numpy as np
import xxhash

from kvroute.router.core import blocks
from kvroute.router.core.changes import Words
from kvroute.router.knowledge.events.batch import BadBatch, BlockStored
from kvroute.router.knowledge.events.fields import ids, is_repeated, length, nothing_but_nil, plain, word
from kvroute.router.knowledge.events.headers import array_header

_mix = xxhash.xxh3_64_intdigest
_STEP = np.uint64(0x9E3779B97F4A7C15)
"""Between the hashes of one block's parts: 2^64 over the golden ratio, so that they are far from one another."""
_UNREADABLE = (TypeError, ValueError, LookupError, OverflowError, RecursionError)
"""What a field can raise that is not what it should be, however it slipped through: the batch is refused."""
_UNNAMED = "\0lora id "
"""Before the number of an adapter whose name an older engine does not tell: no client can ask for such a name."""


class Run(msgspec.Struct, gc=False):
    """Consecutive blocks of one event, ready to be hashed."""

    parent: int | None
    """Engine hash of the block before them; None at the beginning of a prompt."""
    root: int
    """Where our chain begins when there is no parent."""
    data: bytes
    """Token ids as `blocks.pack` makes them."""
    block_bytes: int
    """Of one block of the engine [bytes]."""
    own_bytes: int
    """Of one of ours; divides `block_bytes` [bytes]."""
    mixed: list[bytes | None] | None
    """What else makes each block what it is (media, above all); None where tokens are all there is."""


class Blocks(msgspec.Struct, gc=False):
    """The blocks of one event, of which runs are made: all at once, or a part at a time."""

    event: BlockStored
    hashes: Words
    ids: list[int]
    """Of all blocks."""
    extras: list[Any] | None
    """What went into the engine's hash of each block beside tokens; None: nothing."""

    def run(self, first: int, last: int, block_tokens: int) -> Run:
        """Blocks first..last; `block_tokens`, the size of ours, divides the engine's.

        Raises:
            BadBatch: a token id is no unsigned 32-bit number; extra keys make no sense.
        """
        try:
            return self._run(first, last, block_tokens)
        except _UNREADABLE as error:
            raise BadBatch(f"{type(error).__name__}: {error}") from error

    def _run(self, first: int, last: int, block_tokens: int) -> Run:
        event = self.event
        size = event.block_size
        whole = first == 0 and last == len(self.hashes)
        try:
            data = blocks.pack(self.ids if whole else self.ids[first * size : last * size])
        except (OverflowError, TypeError) as error:
            raise BadBatch(f"token_ids: {error}") from error
        parent = int(self.hashes[first - 1]) if first else event.parent_block_hash
        salt, mixed = None, None
        if self.extras is not None:
            salt, mixed = _split(self.extras[first:last], event.lora_name, parent is None)
        return Run(
            None if parent is None else word(parent),
            blocks.token_root(_adapter(event), salt, block_tokens) if parent is None else 0,
            data,
            size * blocks.TOKEN_BYTES,
            block_tokens * blocks.TOKEN_BYTES,
            mixed,
        )


def read(event: BlockStored, hashes: Words) -> Blocks | None:
    """The blocks of an event. None where the tokens are not theirs: the engine left some blocks out, and which is not
    told.

    Raises:
        BadBatch: a block of no tokens; extra keys that cannot be read.
    """
    if event.block_size < 1:
        raise BadBatch(f"block_size is {event.block_size}")
    count = len(hashes)
    if not count or length(event.token_ids) != count * event.block_size:
        return None
    try:
        return Blocks(event, hashes, ids(event.token_ids), _extras(event, count))
    except _UNREADABLE as error:
        raise BadBatch(f"{type(error).__name__}: {error}") from error


def keys(run: Run, parent: int) -> Words:
    """The keys of our blocks in the run, which follows the block whose key is `parent` (or the run's root)."""
    if run.mixed is None:
        return as_words(blocks.extend(parent, run.data, run.own_bytes))
    found: list[int] = []
    view = memoryview(run.data)
    for start, mixed in zip(range(0, len(view), run.block_bytes), run.mixed, strict=True):
        behind = parent if mixed is None else _mix(mixed, parent)
        found += blocks.extend(behind, view[start : start + run.block_bytes], run.own_bytes)
        parent = found[-1]
    return as_words(found)


def spread(hashes: Words, parts: int) -> Words:
    """A hash for each of the `parts` of ours in every block of the engine: the last one's is the engine's own.

    Whoever holds a block must hold its parents, so all parts are entered and removed, not the last alone.
    """
    if parts == 1:
        return hashes
    steps = np.arange(1, parts + 1, dtype=np.uint64) * _STEP
    steps[-1] = 0
    return (hashes[:, None] + steps).reshape(-1)


def next_key(parent: int, data: bytes | memoryview, own_bytes: int, mixed: bytes | None) -> int:
    """The key of one engine block, whose bytes are `data`."""
    return blocks.extend(parent if mixed is None else _mix(mixed, parent), data, own_bytes)[-1]


def as_words(numbers: list[int]) -> Words:
    """64-bit numbers as an array: half the cost of `np.array`."""
    return np.frombuffer(array("Q", numbers), np.uint64)


def _adapter(event: BlockStored) -> str | None:
    if event.lora_name is None and event.lora_id is not None:
        return f"{_UNNAMED}{event.lora_id}"
    return event.lora_name


def _extras(event: BlockStored, count: int) -> list[Any] | None:
    """One entry per block. Where the field has another number of them, all of it stands for each."""
    if nothing_but_nil(event.extra_keys):
        return None
    if event.lora_name is not None and is_repeated(event.extra_keys, msgspec.msgpack.encode([event.lora_name]), count):
        return None  # no need to decode a list for each block
    if array_header(bytes(event.extra_keys)[:5])[0] != count:
        return [[xxhash.xxh3_128_digest(event.extra_keys)]] * count
    told: list[Any] = plain(event.extra_keys)
    return told


def _split(extras: list[Any], adapter: str | None, first: bool) -> tuple[str | None, list[bytes | None] | None]:
    """The salt, and what is to be mixed into each block's key; `first`: the first block begins a prompt.

    An event has, for each block, nil or a list: the adapter's name, the media that the block touches, on a prompt's
    first block its salt, hashes of embeddings. Older engines wrote media as strings: a lone one on a first block is
    then taken for a salt, and the prompt is as much apart from one without it.
    """
    items = [_without_adapter(extra, adapter) for extra in extras]
    salt = _take_salt(items[0]) if first else None
    if not any(items):
        return salt, None
    return salt, [msgspec.msgpack.encode(extra) if extra else None for extra in items]


def _without_adapter(extra: Any, adapter: str | None) -> list[Any]:
    items = [] if extra is None else list(extra) if isinstance(extra, list) else [extra]
    if adapter is not None and items and _is_adapter(items[0], adapter):
        del items[0]
    return items


def _is_adapter(item: Any, adapter: str) -> bool:
    return item == adapter or (isinstance(item, list) and item[:2] == ["lora", adapter])


def _take_salt(items: list[Any]) -> str | None:
    """Remove the salt, which stands behind media and before hashes of embeddings."""
    for at in range(len(items) - 1, -1, -1):
        item = items[at]
        if isinstance(item, str):
            del items[at]
            return item
        if isinstance(item, list) and len(item) == 2 and item[0] == "cache_salt" and isinstance(item[1], str):
            del items[at]
            return str(item[1])
        if not isinstance(item, bytes):
            break
    return None
