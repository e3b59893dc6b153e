"""What names say of a model and a GPU."""

from __future__ import annotations

import pytest

from kvroute.simulator.fidelity.priors import datasheet, parameters


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("meta-llama/Llama-3.1-8B", 8.0), ("Qwen/Qwen3-32B", 32.0), ("Qwen/Qwen2.5-0.5B-Instruct", 0.5),
        ("Qwen/Qwen3-30B-A3B", None), ("mistralai/Mixtral-8x7B", None), ("x/Llama-3.1-8B-FP8", None), ("gpt2", None),
    ],
)  # fmt: skip
def test_parameters(model: str, billions: float | None) -> None:
    """The size in a name; nothing for mixtures of experts and narrow types."""
    assert parameters(model) == billions


@pytest.mark.parametrize(
    ("name", "row"), [("RTX4090", "rtx-4090"), ("H100", "h100-sxm"), ("RTXPRO6000", "rtx-pro-6000")]
)
def test_datasheet(name: str, row: str) -> None:
    """Folder names find their GPU."""
    found = datasheet(name)
    assert found is not None
    assert found.name == row


def test_an_unknown_gpu_is_no_fault() -> None:
    """Nothing is thought of it."""
    assert datasheet("TPUv9") is None
