"""Plain models of what an engine holds, and the bytes of events: written without the code under test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from kvroute.router.core import blocks
from kvroute.router.core.observed import Observed

Held = dict[tuple[int, int], tuple[int, int]]
"""(medium, hash) -> (key, copies)."""


def keys_of(tokens: Sequence[int], size: int, lora: str | None = None, salt: str | None = None) -> list[int]:
    """The token lens' keys of a prompt."""
    return blocks.extend(blocks.token_root(lora, salt, size), blocks.pack(tokens), size * blocks.TOKEN_BYTES)


def stored(hashes: list[Any], parent: Any, tokens: list[int], size: int, **fields: Any) -> dict[str, Any]:
    """A BlockStored event."""
    event = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": tokens}
    return {**event, "block_size": size, "lora_id": None, "medium": "GPU", "lora_name": None, **fields}


def removed(hashes: list[Any], medium: str | None = "GPU", **fields: Any) -> dict[str, Any]:
    """A BlockRemoved event."""
    return {"type": "BlockRemoved", "block_hashes": hashes, "medium": medium, **fields}


CLEARED = {"type": "AllBlocksCleared"}


def payload(*events: Any, ts: float = 1.0) -> bytes:
    """A batch of these events."""
    return msgspec.msgpack.encode([ts, list(events), 0])


def held(observed: Observed, row: int = 0) -> Held:
    """What is observed of a row."""
    return {
        (medium, hash_): (key, count)
        for medium, hashes, keys, counts in observed.contents(row)
        for hash_, key, count in zip(hashes.tolist(), keys.tolist(), counts.tolist(), strict=True)
    }


class NaiveEngine:
    """Reads decoded events and keeps reference counts by hash; keys are made of each block's whole prompt."""

    def __init__(self) -> None:
        self.prompts: dict[int, tuple[list[int], str | None, str | None]] = {}
        self.keys: dict[int, int] = {}
        self.counts: Counter[tuple[int, int]] = Counter()

    def read(self, event: dict[str, Any]) -> None:
        """One event. Hashes are integers, media absent."""
        if event["type"] == "AllBlocksCleared":
            self.counts.clear()
        elif event["type"] == "BlockRemoved":
            self.counts.subtract((0, word(one)) for one in event["block_hashes"])
            self.counts = +self.counts
        else:
            self._store(event)

    def _store(self, event: dict[str, Any]) -> None:
        parent, size = event["parent_block_hash"], event["block_size"]
        if parent is None:
            extra = (event.get("extra_keys") or [None])[0] or []
            salt = next((one for one in extra if one != event["lora_name"]), None)
            before, lora = list[int](), event["lora_name"]
        else:
            before, lora, salt = self.prompts[word(parent)]
        for at, hash_ in enumerate(event["block_hashes"]):
            prompt = before + event["token_ids"][: (at + 1) * size]
            self.prompts[word(hash_)] = prompt, lora, salt
            self.keys[word(hash_)] = keys_of(prompt, size, lora, salt)[-1]
            self.counts[0, word(hash_)] += 1

    def held(self) -> Held:
        """What it holds."""
        return {place: (self.keys[place[1]], count) for place, count in self.counts.items()}


def word(hash_: Any) -> int:
    """A hash as recorded (bytes are written as {"__bytes__": hex} or hex) in 64 bits."""
    if isinstance(hash_, dict):
        (hash_,) = hash_.values()
    if isinstance(hash_, str):
        hash_ = bytes.fromhex(hash_)
    return int.from_bytes(hash_[-8:], "big") if isinstance(hash_, bytes) else int(hash_)
