"""A kind of replica: how fast it is, what it holds, what lies between it and its clients."""

from __future__ import annotations

import math

import msgspec

from kvroute.router.core.steptime import StepTime
from kvroute.scorers.contract import Role
from kvroute.simulator.engine.limits import Limits


class Ingress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request spends outside of the engine's steps: TTFT = this + queueing + steps [seconds]."""

    seconds: float = 0.004
    """HTTP, parsing, hand-over to the engine, per request [s]."""
    per_token: float = 1e-6
    """Tokenising, per prompt token [s/token]."""
    reply: float = 0.001
    """From the end of a step to the client [s]."""


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a simulated replica is made of. `Kind()` is an 8B model on an H100."""

    name: str = "llama-3.1-8b-h100"
    step: StepTime = StepTime()
    limits: Limits = Limits()
    ingress: Ingress = Ingress()
    role: Role = Role.BOTH
    ranks: int = 1
    """Data-parallel ranks behind its endpoint: each is a replica with a scheduler and a cache of its own."""
    kv_bytes_per_token: float = 131072.0
    """KV cache of one token, all layers [bytes]."""
    link_bytes_per_second: float = 25e9
    """Of the link over which KV is handed to another replica [bytes/s]."""
    source: str = "assumed: an 8B model in bf16 on one H100, round numbers, not fitted to a measurement"
    """Where the numbers come from, for people: measured points, a datasheet, a fit."""

    def __post_init__(self) -> None:
        limits = self.limits
        _least("limits.blocks", limits.blocks, 2)
        _least("limits.block_size", limits.block_size, 1)
        _least("limits.max_num_seqs", limits.max_num_seqs, 1)
        _least("limits.max_num_batched_tokens", limits.max_num_batched_tokens, 1)
        if limits.max_num_seqs > limits.max_num_batched_tokens:
            raise ValueError(
                f"limits.max_num_seqs ({limits.max_num_seqs}) is above limits.max_num_batched_tokens"
                f" ({limits.max_num_batched_tokens}): a token for each sequence; lower the one or raise the other"
            )
        _least("ranks", self.ranks, 1)
        _least("ingress.seconds", self.ingress.seconds, 0)
        _least("ingress.per_token", self.ingress.per_token, 0)
        _least("ingress.reply", self.ingress.reply, 0)
        if not self.kv_bytes_per_token > 0:
            raise ValueError(f"kv_bytes_per_token is above 0, not {self.kv_bytes_per_token}")
        if not self.link_bytes_per_second > 0:
            raise ValueError(f"link_bytes_per_second is above 0, not {self.link_bytes_per_second}")

    @property
    def cache_tokens(self) -> int:
        """KV tokens that it holds; one block is the engine's own."""
        return (self.limits.blocks - 1) * self.limits.block_size

    def with_cache(self, tokens: int) -> Kind:
        """The same with room for that many KV tokens.

        Raises:
            ValueError: that is not even one block.
        """
        size = self.limits.block_size
        if tokens < size:
            raise ValueError(f"a cache holds at least one block of {size} tokens, not {tokens}")
        return msgspec.structs.replace(self, limits=msgspec.structs.replace(self.limits, blocks=tokens // size + 1))


def _least(key: str, value: float, least: int) -> None:
    if not least <= value < math.inf:
        raise ValueError(f"{key} is at least {least}, not {value}")
