"""What a model's config.json says of its size: weights, work a token, KV bytes a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.gpus import Precision

BYTES: dict[Precision, float] = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625, "int4": 0.5625}
"""Bytes a weight; 4-bit formats carry a scale of one byte for 16 (fp4) or two for 32 (int4)."""


class Architecture(msgspec.Struct, frozen=True):
    """A decoder's sizes. Counts are parameters; attention without, experts of mixtures apart."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    """Of queries and keys, for the products of attention."""
    dense: float
    """Parameters that every token meets, embedding and output matrix apart: attention, dense and shared layers."""
    experts: float
    """Parameters of all routed experts together."""
    expert_share: float
    """Share of them that one token meets: experts per token / experts."""
    embedding: float
    """Parameters of one vocabulary matrix."""
    matrices: int
    """Vocabulary matrices: 1 where input and output share it, else 2."""
    kv_values: float
    """Values kept per token, all layers and KV heads (or the latent, with MLA) that keep the whole context."""
    latent: bool
    """MLA: what is kept is not split over tensor-parallel GPUs."""
    full_layers: int
    """Layers that see the whole context; the others have a sliding window."""
    precision: Precision
    """Of the weights, as the config says."""
    quantised: bool
    """Only experts are stored at `precision`, the rest in bf16 (True), or all layers are (False)."""

    @property
    def active(self) -> float:
        """Parameters that one token is multiplied with, output matrix included."""
        return self.dense + self.experts * self.expert_share + self.embedding

    def weight_bytes(self, precision: Precision) -> tuple[float, float]:
        """(what every step reads, what all routed experts are) [bytes]; the vocabulary stays in bf16."""
        outer: Precision = "bf16" if self.quantised and self.experts else precision
        return self.dense * BYTES[outer] + self.embedding * 2.0, self.experts * BYTES[precision]

    def stored_bytes(self, precision: Precision) -> float:
        """All weights [bytes]."""
        read, experts = self.weight_bytes(precision)
        return read + experts + (self.matrices - 1) * self.embedding * 2.0


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Read a model's config.json; multimodal ones have it below `text_config`.

    Raises:
        FleetError: a size is missing; the message names the key.
    """
    text = config.get("text_config")
    own = dict(text) if isinstance(text, Mapping) else dict(config)
    quantisation = config.get("quantization_config") or own.get("quantization_config")
    layers, hidden = _whole(own, "num_hidden_layers"), _whole(own, "hidden_size")
    heads = _whole(own, "num_attention_heads")
    kv_heads = _whole(own, "num_key_value_heads", heads)
    head_dim = _whole(own, "head_dim", hidden // heads)
    vocabulary = _whole(own, "vocab_size") * hidden
    latent = own.get("kv_lora_rank") is not None
    attention, values, width = _latent(own) if latent else _grouped(hidden, heads, kv_heads, head_dim)
    dense, experts, share = _feed_forward(own, layers, hidden)
    full = _full_layers(own, layers)
    return Architecture(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        dense=float(layers * attention + dense),
        experts=float(experts),
        expert_share=share,
        embedding=float(vocabulary),
        matrices=1 if own.get("tie_word_embeddings", False) else 2,
        kv_values=float(full * values),
        latent=latent,
        full_layers=full,
        precision=_precision(quantisation),
        quantised=_experts_only(quantisation),
    )


def _grouped(hidden: int, heads: int, kv_heads: int, head_dim: int) -> tuple[int, int, int]:
    """(parameters a layer, values kept per token and layer, width of the products)."""
    return hidden * head_dim * (2 * heads + 2 * kv_heads), 2 * kv_heads * head_dim, head_dim


def _latent(own: Mapping[str, Any]) -> tuple[int, int, int]:
    """The same for multi-head latent attention."""
    hidden, heads = _whole(own, "hidden_size"), _whole(own, "num_attention_heads")
    rank, rope = _whole(own, "kv_lora_rank"), _whole(own, "qk_rope_head_dim")
    nope, value = _whole(own, "qk_nope_head_dim"), _whole(own, "v_head_dim")
    query = own.get("q_lora_rank")
    queries = heads * (nope + rope)
    of_queries = hidden * queries if query is None else query * (hidden + queries)
    kept = rank + rope
    parameters = of_queries + hidden * kept + rank * heads * (nope + value) + heads * value * hidden
    return parameters, kept, (nope + rope + value) // 2


def _feed_forward(own: Mapping[str, Any], layers: int, hidden: int) -> tuple[int, int, float]:
    """(dense and shared parameters, routed parameters, share of them per token), all layers."""
    count = _first(own, "num_local_experts", "n_routed_experts", "num_experts")
    if not count:
        return layers * 3 * hidden * _whole(own, "intermediate_size"), 0, 0.0
    width = _first(own, "moe_intermediate_size") or _whole(own, "intermediate_size")
    each = 3 * hidden * width
    chosen = _first(own, "num_experts_per_tok", "experts_per_token")
    if chosen is None:
        raise FleetError("the model's config lacks num_experts_per_tok")
    plain = int(own.get("first_k_dense_replace") or 0)
    shared = (layers - plain) * int(own.get("n_shared_experts") or 0) * each
    dense = plain * 3 * hidden * _whole(own, "intermediate_size") if plain else 0
    routers = (layers - plain) * hidden * count
    return dense + shared + routers, (layers - plain) * count * each, chosen / count


def _full_layers(own: Mapping[str, Any], layers: int) -> int:
    kinds = own.get("layer_types")
    if isinstance(kinds, list):
        return sum(1 for kind in kinds if kind == "full_attention") or layers
    return layers


def _precision(quantisation: object) -> Precision:
    text = str(quantisation).lower() if quantisation else ""
    if "mxfp4" in text or "nvfp4" in text or "fp4" in text:
        return "fp4"
    if "fp8" in text or "'num_bits': 8" in text:
        return "fp8"
    if "awq" in text or "gptq" in text or "'num_bits': 4" in text or "int4" in text:
        return "int4"
    return "bf16"


def _experts_only(quantisation: object) -> bool:
    return bool(quantisation) and "self_attn" in str(quantisation)


def _first(own: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        if isinstance(own.get(key), int):
            return int(own[key])
    return None


def _whole(own: Mapping[str, Any], key: str, otherwise: int | None = None) -> int:
    found = own.get(key)
    if found is None and otherwise is not None:
        return otherwise
    if not isinstance(found, int) or found < 1:
        raise FleetError(f"the model's config needs a whole number as {key}, not {found!r}")
    return found
