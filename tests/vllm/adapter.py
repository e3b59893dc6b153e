"""A LoRA adapter for the tests' model, small and random, in the files that PEFT writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

RANK = 8


def make(folder: Path, model: Path) -> Path:
    """Write an adapter of `model`'s query projections into `folder`, which is made."""
    config = json.loads((model / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    rng = np.random.default_rng(7)
    tensors = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora"
        tensors[f"{name}_A.weight"] = rng.standard_normal((RANK, hidden), np.float32)
        tensors[f"{name}_B.weight"] = rng.standard_normal((hidden, RANK), np.float32)
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "bias": "none", "target_modules": ["q_proj"]})
    )
    (folder / "adapter_model.safetensors").write_bytes(_safetensors(tensors))
    return folder


def _safetensors(tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> bytes:
    """The file format: the header's length, the header as JSON, the data."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        begin = len(data)
        data += tensor.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, len(data)]}
    described = json.dumps(header).encode()
    return len(described).to_bytes(8, "little") + described + data
