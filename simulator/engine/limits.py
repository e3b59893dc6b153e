"""What one replica can hold and do at once."""

from __future__ import annotations

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
