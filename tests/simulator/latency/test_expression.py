"""Kinds from first principles, as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.gpus import gpu
from kvroute.simulator.latency.models import CONFIGS
from kvroute.simulator.latency.presets import preset
from kvroute.simulator.latency.roofline import roofline


def test_a_known_model_on_a_known_gpu() -> None:
    """The text gives what the function gives."""
    kind = preset("roofline:qwen3-32b,gpu=h100-sxm,tp=2")
    assert kind == roofline(CONFIGS["qwen3-32b"], gpu("h100-sxm"), tp=2, name="qwen3-32b-h100-sxm-tp2")
    assert "not measured" in kind.source


@pytest.mark.parametrize("leaf", ["", "/config.json"])
def test_a_models_folder(tmp_path: Path, leaf: str) -> None:
    """A config.json is read from its path or its folder, and the kind is called as the folder."""
    folder = tmp_path / "My-Model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS["llama-3.1-8b"]))
    kind = preset(f"roofline:{folder}{leaf},gpu=l4,precision=fp8,kv=fp8,memory=0.8,max_num_batched_tokens=512")
    assert (kind.name, kind.kv_bytes_per_token) == ("My-Model-l4-fp8", 65536)
    assert kind.step.budget == kind.limits.max_num_batched_tokens == 512


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("llama-3.1-8b", "which gpu"),
        ("llama-3.1-8b,gpu=h100-smx", r"GPU 'h100-smx' \(did you mean h100-sxm\?\)"),
        ("llama-3.1-8b,gpus=h100", r"unknown option 'gpus' \(did you mean gpu\?\); there are gpu, tp"),
        ("llama-3.1-8b,gpu=h100,tp=0", "tp is a whole number of at least 1, not 0"),
        ("llama-3.1-8b,gpu=h100,tp=", "tp needs a value"),
        ("llama-3.1-8b,gpu=h100,tp=1,tp=2", "tp is given twice"),
        ("llama-3.1-8b,gpu=h100,max_num_batched_tokens=64", r"max_num_seqs \(256\) is above .*max_num_batched_tokens"),
        ("llama-3.1-8b,gpu=h100,memory=90", "memory is a share"),
        ("llama-3.1-8b,gpu=h100,kv=int8", "kv is one of bf16, fp8, not int8"),
        ("llama-3.1-8b,gpu=h100,precision=int3", "precision is one of"),
        ("llama-3.1-9b,gpu=h100", r"No such file or directory \(did you mean llama-3.1-8b\?\)"),
    ],
)
def test_a_bad_expression_is_told(rest: str, message: str) -> None:
    """The message names the option, what there is, and what may have been meant."""
    with pytest.raises(FleetError, match=message):
        preset(f"roofline:{rest}")


@pytest.mark.parametrize(("content", "message"), [("{", "not JSON"), ("[]", "an object"), ("{}", "num_hidden_layers")])
def test_a_bad_config_is_told(tmp_path: Path, content: str, message: str) -> None:
    """What a config.json lacks is named."""
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(FleetError, match=message):
        preset(f"roofline:{path},gpu=h100")
