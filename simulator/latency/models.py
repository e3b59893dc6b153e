"""Sizes of the models that presets exist for, as their public config.json files give them."""

from __future__ import annotations

from typing import Any

_EVERY_OTHER = ["sliding_attention", "full_attention"] * 18

CONFIGS: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336, "vocab_size": 128256,
    },
    "llama-3.1-70b": {
        "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
        "intermediate_size": 28672, "vocab_size": 128256,
    },
    "qwen3-32b": {
        "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 25600, "vocab_size": 151936,
    },
    "gpt-oss-120b": {
        "hidden_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64, "num_key_value_heads": 8,
        "head_dim": 64, "intermediate_size": 2880, "vocab_size": 201088, "num_local_experts": 128,
        "num_experts_per_tok": 4, "sliding_window": 128, "layer_types": _EVERY_OTHER,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    },
    "minimax-m2.5": {
        "hidden_size": 3072, "num_hidden_layers": 62, "num_attention_heads": 48, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 1536, "vocab_size": 200064, "num_local_experts": 256,
        "num_experts_per_tok": 8, "quantization_config": {"quant_method": "fp8"},
    },
    "kimi-k2.5": {
        "text_config": {
            "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 64, "num_key_value_heads": 64,
            "intermediate_size": 18432, "moe_intermediate_size": 2048, "vocab_size": 163840, "n_routed_experts": 384,
            "num_experts_per_tok": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "kv_lora_rank": 512,
            "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
            "quantization_config": {"config_groups": {"weights": {"num_bits": 4}}, "ignore": ["re:.*self_attn.*"]},
        }
    },
}  # fmt: skip
