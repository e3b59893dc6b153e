"""Chained keys of a prompt's blocks: equal key, equal prefix.

Theory of operation. A replica can reuse the KV cache of a prompt only as far as the prompt's beginning is, token for
token, one that it has computed before: attention makes each position depend on all positions before it. So the thing
to be known of a block is not its content but its content *and everything before it*. A prompt is cut into blocks of
fixed size, and the key of block i is

    key_0 = XXH3-64(block_0, seed = root)        key_i = XXH3-64(block_i, seed = key_{i-1})

Two prompts have the same key at depth i exactly when they agree on blocks 0..i (collisions of 64 bits aside), hence

- one flat table `key -> who holds it` replaces a prefix tree: no nodes, no pointers, no locks;
- a longest cached prefix is found by bisection over depth, as long as whoever holds a block also holds its parents;
- a chain can be taken up again from any known key, so a long conversation costs only its new blocks.

`root` makes prompts incomparable that an engine would not share either: another model, another LoRA adapter, another
`cache_salt`. What follows the last full block has no key, as in the engine, which shares whole blocks only. XXH3 is
not cryptographic: somebody who makes two prompts collide gains a wrong estimate, never somebody else's cache.
"""

from __future__ import annotations

import functools
import struct
from array import array
from collections.abc import Iterable

import xxhash

_SWAP = struct.pack("=I", 1) != struct.pack("<I", 1)
_key = xxhash.xxh3_64_intdigest
TOKEN_BYTES = 4
"""A token id in a block's bytes: 32 bits, little-endian."""
_LONG = 256
"""Characters of a name or salt that are kept as they are."""


@functools.lru_cache(maxsize=64)
def _layout(block_bytes: int) -> struct.Struct:
    """Cuts bytes into blocks in C: a third faster than slicing them here."""
    return struct.Struct(f"{block_bytes}s")


def root(model: str, adapter: str | None, cache_salt: str | None) -> int:
    """The 64-bit seed of a chain. None and "" differ; no two triples share their bytes (long parts: their 128 bits)."""
    return _root(
        model if len(model) <= _LONG else _digest(model),
        adapter if adapter is None or len(adapter) <= _LONG else _digest(adapter),
        cache_salt if cache_salt is None or len(cache_salt) <= _LONG else _digest(cache_salt),
    )


def token_root(adapter: str | None, cache_salt: str | None, block_tokens: int) -> int:
    """The seed of a chain of token blocks, of `block_tokens` each.

    The model is left out: its names are many, its cache is one, and who serves another is never asked about this one.
    """
    return root(f"tokens/{block_tokens}", adapter, cache_salt)


def pack(ids: Iterable[int]) -> bytes:
    """Token ids as the bytes that `extend` cuts into blocks of `block_tokens * TOKEN_BYTES`.

    Raises:
        OverflowError, TypeError: an id is no unsigned 32-bit number.
    """
    packed = array("I", ids)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()


def _digest(text: str) -> bytes:
    """What stands for a text that is too long to be kept: clients choose salts and model names, up to a whole body."""
    return xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))


@functools.lru_cache(maxsize=1024)
def _root(*parts: str | bytes | None) -> int:
    data = bytearray()
    for part in parts:
        if part is None:
            data += b"-"
        elif isinstance(part, bytes):
            data += b"#" + part
        else:
            text = part.encode("utf-8", "surrogatepass")
            data += b"+%d:" % len(text) + text
    return _key(data)


def extend(parent: int, data: bytes | memoryview, block_bytes: int) -> list[int]:
    """Keys of the full blocks of `data`, which follows the block whose key is `parent` (or a root).

    `block_bytes` is the size of a block [bytes]; bytes after the last full block are ignored.
    """
    full = len(data) - len(data) % block_bytes
    key = parent
    return [key := _key(block, key) for (block,) in _layout(block_bytes).iter_unpack(memoryview(data)[:full])]
