"""A kind of replica from first principles: a model's config.json and a GPU's datasheet, when nothing was measured.

A step takes the longer of computing and reading memory, plus what launching it and adding up over GPUs costs. That is
no line; it is drawn through two points of each quantity that matters, so that `StepTime` can carry it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kvroute.router.core.steptime import StepTime
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.architecture import Architecture, architecture
from kvroute.simulator.latency.gpus import Gpu, Precision
from kvroute.simulator.latency.kind import Ingress, Kind


class Efficiency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far real engines stay behind datasheets; the same for all models and GPUs. `tuning.py` sets these numbers."""

    compute: float = 0.46
    """Of the peak matrix rate, in prefill."""
    memory: float = 0.95
    """Of the peak memory rate, for weights."""
    cache: float = 0.95
    """Of the peak memory rate, for KV."""
    attention: float = 0.25
    """Of the bf16 peak, for the products of attention."""
    experts: float = 0.33
    """Of what the first two give, for routed experts: many small products instead of one."""
    launch: float = 0.5e-3
    """A step, whatever is in it: scheduling, input, sampling [s]."""
    layer: float = 44e-6
    """A layer's kernels, beyond their work [s]."""
    routing: float = 5e-6
    """The same for choosing and sorting experts, where a layer has them [s]."""
    reduction: float = 11e-6
    """Latency of adding up over GPUs, twice a layer [s]."""
    link: float = 0.25
    """Of the peak link rate, for what is added up."""
    sequence: float = 5e-6
    """Sampling and bookkeeping for one sequence [s]."""
    reply: float = 30e-3
    """From the end of a step to the client [s]."""


EFFICIENCY = Efficiency()
TRUST = "where judged, half of TPOT was off by 20 % or more, of TTFT by 25 %"
USABLE = 0.9
"""Share of the memory that the engine takes (`gpu_memory_utilization`)."""
WORKSPACE = 1.2e9
"""Bytes of each GPU for graphs and libraries; with the next, what five real engines kept back."""
ACTIVATIONS = 450e3
"""Bytes of each GPU that a step needs per token of its budget."""


def roofline(
    config: Mapping[str, Any],
    gpu: Gpu,
    *,
    tp: int = 1,
    precision: Precision | None = None,
    kv_bytes: float = 2.0,
    usable: float = USABLE,
    limits: Limits | None = None,
    name: str = "roofline",
    efficiency: Efficiency = EFFICIENCY,
) -> Kind:
    """What the datasheet promises for a model.

    Args:
        config: the model's config.json.
        gpu: one row of the datasheets.
        tp: GPUs that hold one copy of the model between them.
        precision: of the weights; None: as the config says.
        kv_bytes: bytes a value of the KV cache (1 for fp8).
        usable: share of the memory that the engine takes.
        limits: all but the number of blocks, which follows from the memory.
        efficiency: how far to stay behind the datasheet.

    Raises:
        FleetError: the config lacks a size, or the weights do not fit.
    """
    sizes = architecture(config)
    chosen = precision or sizes.precision
    limits = limits or Limits()
    budget = limits.max_num_batched_tokens
    tokens = kv_tokens(sizes, gpu, tp=tp, precision=chosen, kv_bytes=kv_bytes, usable=usable, budget=budget)
    if tokens < limits.block_size * 64:
        raise FleetError(
            f"{name}: {sizes.stored_bytes(chosen) / 1e9:.0f} GB of {chosen} weights leave no room for a KV cache on"
            f" {tp} x {gpu.name} ({gpu.memory_bytes * tp * usable / 1e9:.0f} GB usable); more GPUs (tp) or a narrower"
            " precision would"
        )
    return Kind(
        name=name,
        step=step_time(sizes, gpu, tp=tp, precision=chosen, kv_bytes=kv_bytes, limits=limits, efficiency=efficiency),
        limits=msgspec.structs.replace(limits, blocks=int(tokens) // limits.block_size + 1),
        ingress=Ingress(reply=efficiency.reply),
        kv_bytes_per_token=sizes.kv_values * kv_bytes,
        source=f"roofline, not measured ({TRUST}): {gpu.source}, tp={tp}, {chosen} weights",
    )


def kv_tokens(
    sizes: Architecture,
    gpu: Gpu,
    *,
    tp: int,
    precision: Precision,
    kv_bytes: float = 2.0,
    usable: float = USABLE,
    budget: int = 2048,
) -> float:
    """KV tokens that fit beside the weights; negative where not even they fit."""
    room = gpu.memory_bytes * usable - WORKSPACE - ACTIVATIONS * budget - sizes.stored_bytes(precision) / tp
    return room / (sizes.kv_values * kv_bytes / shards(sizes, tp))


def shards(sizes: Architecture, tp: int) -> int:
    """Over how many GPUs the KV cache of one sequence is split; a latent, or a single head, is kept on each."""
    return 1 if sizes.latent else min(tp, sizes.kv_heads)


def step_time(
    sizes: Architecture,
    gpu: Gpu,
    *,
    tp: int = 1,
    precision: Precision,
    kv_bytes: float = 2.0,
    limits: Limits | None = None,
    efficiency: Efficiency = EFFICIENCY,
) -> StepTime:
    """The coefficients.

    c0 and c1 are the line closest to the steps that decode 1 to 256 sequences (a mixture of experts reads more of them
    as the batch grows, until it reads all), c3 leads from there to the step with a whole budget of prompt.
    """
    budget = (limits or Limits()).max_num_batched_tokens
    rate, memory = tp * gpu.rate(precision) * efficiency.compute, tp * gpu.memory_rate * efficiency.memory
    plain, routed = sizes.dense + sizes.embedding, sizes.experts * sizes.expert_share
    token = 2.0 * (plain + routed / efficiency.experts) / rate
    added_up = 4.0 * sizes.layers * sizes.hidden * (tp - 1) / tp * 2.0 / (gpu.link_rate * efficiency.link)
    fixed = efficiency.launch + sizes.layers * (efficiency.layer + (efficiency.routing if sizes.experts else 0.0))
    if tp > 1:
        fixed += 2 * sizes.layers * efficiency.reduction
    always, experts = sizes.weight_bytes(precision)

    def seconds(tokens: int) -> float:
        met = 1.0 - (1.0 - sizes.expert_share) ** tokens
        reading = (always + experts * met / efficiency.experts) / memory
        return fixed + max(reading, tokens * token) + tokens * added_up

    c0, c1 = _line([(float(batch), seconds(batch)) for batch in (1, 4, 16, 64, 256)])
    products = 4.0 * sizes.full_layers * sizes.heads * sizes.head_dim
    return StepTime(
        c0=c0,
        c1=c1 + efficiency.sequence,
        c2=sizes.kv_values * kv_bytes / (shards(sizes, tp) * gpu.memory_rate * efficiency.cache),
        c3=max((seconds(budget) - c0) / budget, 1e-9),
        c4=products / (tp * gpu.bf16 * efficiency.attention),
        budget=budget,
    )


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(start, slope) of the line with the least squares of relative errors; the slope is not below 0."""
    weights = [1.0 / (y * y) for _, y in points]
    total = math.fsum(weights)
    mean_x = math.fsum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = math.fsum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    above = math.fsum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True))
    below = math.fsum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    slope = max(0.0, above / below)
    return mean_y - slope * mean_x, slope
