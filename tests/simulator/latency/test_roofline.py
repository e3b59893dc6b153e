"""What datasheets and a model's sizes give."""

from __future__ import annotations

import pytest

from kvroute.simulator.latency.architecture import architecture
from kvroute.simulator.latency.gpus import GPUS, gpu
from kvroute.simulator.latency.models import CONFIGS
from kvroute.simulator.latency.roofline import kv_tokens, roofline, step_time


@pytest.mark.parametrize(
    ("model", "total", "active"),
    [
        ("llama-3.1-8b", 8.03e9, 7.5e9),
        ("llama-3.1-70b", 70.55e9, 69.5e9),
        ("qwen3-32b", 32.76e9, 31.98e9),
        ("gpt-oss-120b", 116.8e9, 5.1e9),
        ("minimax-m2.5", 228.7e9, 10.4e9),
        ("kimi-k2.5", 1026e9, 31.7e9),
    ],
)
def test_parameters_are_those_that_the_makers_state(model: str, total: float, active: float) -> None:
    """All weights, and those that one token meets (without the input embedding)."""
    sizes = architecture(CONFIGS[model])
    counted = sizes.dense + sizes.experts + sizes.matrices * sizes.embedding
    assert counted == pytest.approx(total, rel=2e-3)
    assert sizes.active == pytest.approx(active, rel=1e-2)


def test_a_model_by_hand() -> None:
    """Llama 8B: 16 GB of weights, 2 * 32 layers * 8 heads * 128 * 2 bytes a token."""
    kind = roofline(CONFIGS["llama-3.1-8b"], gpu("h100-sxm"))
    assert kind.kv_bytes_per_token == 131072
    assert architecture(CONFIGS["llama-3.1-8b"]).stored_bytes("bf16") == pytest.approx(16.06e9, rel=1e-3)
    reading = 15.0e9 / 3.35e12
    computing = 2 * 7.5e9 / 989.5e12
    assert reading < kind.step.c0 < 2.5 * reading
    assert computing < kind.step.c3 < 3 * computing
    assert kind.step.c2 == pytest.approx(131072 / 3.35e12, rel=0.6)
    assert kind.step.c4 == pytest.approx(4 * 32 * 4096 / 989.5e12, rel=4)


def test_the_cache_of_a_real_engine() -> None:
    """vLLM 0.19 reported 41,408 KV tokens for Llama 8B on an RTX 4090 with a budget of 2,048."""
    sizes = architecture(CONFIGS["llama-3.1-8b"])
    assert kv_tokens(sizes, gpu("rtx-4090"), tp=1, precision="bf16") == pytest.approx(41408, rel=0.1)


def test_kv_is_split_over_gpus_unless_latent() -> None:
    """Two GPUs hold more than twice the tokens of one with GQA; a latent is kept whole on each."""
    grouped, latent = architecture(CONFIGS["llama-3.1-8b"]), architecture(CONFIGS["kimi-k2.5"])
    card = gpu("b200")
    assert kv_tokens(grouped, card, tp=2, precision="bf16") > 2 * kv_tokens(grouped, card, tp=1, precision="bf16")
    eight, sixteen = (kv_tokens(latent, card, tp=tp, precision="int4") for tp in (8, 16))
    assert sixteen < 1.6 * eight
    assert latent.kv_values == 61 * 576


def test_sliding_windows_keep_half() -> None:
    """A model whose layers take turns between a window and all keeps half of the layers' KV for long contexts."""
    assert architecture(CONFIGS["gpt-oss-120b"]).full_layers == 18


def test_more_and_better_hardware_is_faster() -> None:
    """Every coefficient falls, or stays, from one GPU to two, and to a faster GPU; so it does with narrower weights."""
    sizes = architecture(CONFIGS["llama-3.1-70b"])

    def numbers(name: str, tp: int, precision: str) -> list[float]:
        step = step_time(sizes, gpu(name), tp=tp, precision=precision)  # type: ignore[arg-type]
        return [step.c0, step.c2, step.c3, step.c4]

    base = numbers("h100-sxm", 2, "bf16")
    for other in (numbers("h100-sxm", 4, "bf16"), numbers("b200", 2, "bf16"), numbers("h100-sxm", 2, "fp8")):
        assert all(after <= before for before, after in zip(base, other, strict=True))


def test_the_datasheets_are_plausible() -> None:
    """Narrower types are faster; memory in bytes, rates in bytes and flops a second; each names its source."""
    for card in GPUS.values():
        assert 1e14 < card.bf16 <= (card.fp8 or card.bf16) <= (card.fp4 or card.fp8 or card.bf16) < 1.2e16
        assert 2e10 < card.memory_bytes < 3e11
        assert 2e11 < card.memory_rate < 1e13
        assert card.link_rate < card.memory_rate
        assert card.source.endswith("datasheet")
