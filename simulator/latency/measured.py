"""Reads measured points of real engines: a CSV with mean TTFT and TPOT of closed loops, grouped by kind of replica.

What the columns mean is argued in docs/presets.md: how the loops were driven, and which rows are one deployment.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import get_args

import msgspec

from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.architecture import Architecture, architecture
from kvroute.simulator.latency.gpus import Gpu, Precision, gpu
from kvroute.simulator.latency.models import CONFIGS
from kvroute.simulator.latency.roofline import kv_tokens

GPU_NAMES = {"h100_sxm": "h100-sxm", "b200_sxm": "b200"}
COLUMNS = (
    "backend_version", "model_path", "system", "precision", "isl", "osl", "batch_size", "tp_size", "attention_dp_size",
    "moe_ep_size", "silicon_ttft_ms", "silicon_tpot_ms",
)  # fmt: skip


class Point(msgspec.Struct, frozen=True, order=True):
    """One closed loop; measured more than once, the median."""

    prompt: int
    output: int
    concurrency: int
    """Of the whole deployment."""
    ttft: float
    """Mean [s]."""
    tpot: float
    """Mean [s]."""


class Group(msgspec.Struct, frozen=True):
    """All points of one model on one layout, run by one version of the engine."""

    model: str
    gpu: Gpu
    precision: Precision
    tp: int
    experts: bool
    """Expert parallelism over the same GPUs."""
    version: str
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        """Short and readable."""
        precision = "" if self.precision == "bf16" else f"-{self.precision}"
        layout = (f"-tp{self.tp}" if self.tp > 1 else "") + (f"-ep{self.tp}" if self.experts else "")
        return f"{self.model}-{self.gpu.name.removesuffix('-sxm')}{precision}{layout}"

    @property
    def sizes(self) -> Architecture:
        return architecture(CONFIGS[self.model])

    @property
    def kv_bytes(self) -> float:
        """Bytes a KV value: fp8 on B200 with quantised weights, as its points at full caches show; else bf16."""
        return 1.0 if self.gpu.name == "b200" and self.model != "gpt-oss-120b" and self.precision != "int4" else 2.0

    @property
    def spread(self) -> float:
        """Shortest / longest length: one source drew them from the upper fifth, the other had all equal."""
        return 1.0 if self.model == "qwen3-32b" else 0.8

    @property
    def budget(self) -> int:
        """`max_num_batched_tokens`: what was set, or what fits best where it is not known."""
        return 2048 if self.model == "qwen3-32b" else 8192

    @property
    def late(self) -> int:
        """Steps that a loop's next request misses: one where steps are scheduled ahead of their results."""
        return 0 if self.model == "qwen3-32b" else 1

    @property
    def room(self) -> float:
        """KV tokens that the replica has room for."""
        return kv_tokens(
            self.sizes, self.gpu, tp=self.tp, precision=self.precision, kv_bytes=self.kv_bytes, budget=self.budget
        )

    def crowded(self, point: Point) -> bool:
        """Whether the loop wants more KV room than there is: then it is the cache that is measured, not the steps."""
        share = (1.0 + self.spread) / 2
        return point.concurrency * share * (point.prompt + point.output / 2) > 0.85 * self.room


def read(path: str | Path) -> list[Group]:
    """All groups of the file, by name and version.

    Raises:
        FleetError: the file, line and reason.
    """
    points: dict[tuple[str, str, Precision, int, bool, str], dict[tuple[int, int, int], list[tuple[float, float]]]] = {}
    try:
        with open(path, newline="") as stream:
            rows = csv.DictReader(stream)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise FleetError(f"{path}:1: no column {missing[0]}; it needs {', '.join(COLUMNS)}")
            for row in rows:
                try:
                    key, loop, times = _row(row)
                except (ValueError, KeyError, TypeError) as error:
                    raise FleetError(f"{path}:{rows.line_num}: {error}") from error
                points.setdefault(key, {}).setdefault(loop, []).append(times)
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror}") from error
    return [
        Group(model, gpu(card), precision, tp, experts, version, _points(points[key]))
        for key in sorted(points)
        for model, card, precision, tp, experts, version in [key]
    ]


def _row(
    row: Mapping[str, str],
) -> tuple[tuple[str, str, Precision, int, bool, str], tuple[int, int, int], tuple[float, float]]:
    model = row["model_path"].rpartition("/")[2].lower()
    if model not in CONFIGS:
        raise ValueError(f"the sizes of {row['model_path']} are not known; there are those of {', '.join(CONFIGS)}")
    if row["system"] not in GPU_NAMES:
        raise ValueError(f"system {row['system']} is none of {', '.join(GPU_NAMES)}")
    precision = row["precision"] or "bf16"
    if precision not in get_args(Precision):
        raise ValueError(f"precision {precision} is none of {', '.join(get_args(Precision))}")
    chosen: Precision = precision  # type: ignore[assignment]
    tp = int(row["tp_size"])
    whole = int(row["batch_size"]) * int(row["attention_dp_size"] or 1)
    key = (model, GPU_NAMES[row["system"]], chosen, tp, int(row["moe_ep_size"]) > 1, row["backend_version"])
    loop = (int(row["isl"]), int(row["osl"]), whole)
    return key, loop, (float(row["silicon_ttft_ms"]) / 1e3, float(row["silicon_tpot_ms"]) / 1e3)


def _points(loops: Mapping[tuple[int, int, int], list[tuple[float, float]]]) -> tuple[Point, ...]:
    return tuple(
        Point(*loop, median(ttft for ttft, _ in times), median(tpot for _, tpot in times))
        for loop, times in sorted(loops.items())
    )
