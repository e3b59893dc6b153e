"""What one replica can hold and do at once."""

from __future__ import annotations

from typing import Literal

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """What one replica can hold and do at once; the defaults are vLLM's."""

    blocks: int = 32768
    """`num_gpu_blocks`, its null block included."""
    block_size: int = 16
    """Tokens a block."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    key_tokens: int = 0
    """Tokens that one key of a request stands for, a multiple of `block_size`; 0: a block. Room is counted in blocks,
    but content is known, found and evicted by whole keys."""
    reserve_prompt: bool = True
    """Admit a request only where its whole prompt has room, not just its first chunk
    (`scheduler_reserve_full_isl`)."""
    policy: Literal["fcfs", "priority"] = "fcfs"
    """Who runs first: who came first, or who has the least `EngineRequest.priority`, and then who came first."""
    max_loras: int = 0
    """Adapters in one batch, and on the device; 0: as many as there are."""
    adapter_seconds: float = 0.0
    """By which a step is longer for each adapter that is not on the device [s]."""
    cpu_blocks: int = 0
    """Blocks that evicted content finds room for in the host's memory."""
    cpu_seconds_per_block: float = 0.0
    """To bring one of them back, one after the other [s]."""

    @property
    def blocks_per_key(self) -> int:
        """Blocks that one key stands for.

        Raises:
            ValueError: it is not a whole number.
        """
        blocks, rest = divmod(self.key_tokens or self.block_size, self.block_size)
        if rest or blocks < 1:
            raise ValueError(f"key_tokens must be a multiple of block_size ({self.block_size}), not {self.key_tokens}")
        return blocks
