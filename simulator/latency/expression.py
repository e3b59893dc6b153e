"""Reads `roofline:MODEL,gpu=NAME,tp=N,...`: a kind of replica from first principles, as text."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.gpus import GPUS, Precision, gpu
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.models import CONFIGS
from kvroute.simulator.latency.roofline import USABLE, roofline

PREFIX = "roofline:"
OPTIONS = ("gpu", "tp", "precision", "kv", "memory", "max_num_seqs", "max_num_batched_tokens", "block_size", "name")
USAGE = f"{PREFIX}MODEL,gpu=NAME[,tp=N] with the path of a model's config.json or one of {', '.join(CONFIGS)}"
KV_BYTES = {"bf16": 2.0, "fp8": 1.0}


def kind(text: str) -> Kind:
    """The kind that the expression describes.

    Raises:
        FleetError: an unknown model, GPU or option, limits that do not go together, or weights that do not fit; the
            message says what there is.
    """
    model, _, rest = text.removeprefix(PREFIX).partition(",")
    options = _options(text, rest)
    if "gpu" not in options:
        raise FleetError(f"{text}: which gpu? There are {', '.join(GPUS)}; such as {PREFIX}{model},gpu=h100-sxm")
    card = gpu(options["gpu"])
    tp = _count(text, options, "tp", 1)
    config, title = _config(model)
    limits = Limits(
        block_size=_count(text, options, "block_size", 16),
        max_num_seqs=_count(text, options, "max_num_seqs", Limits().max_num_seqs),
        max_num_batched_tokens=_count(text, options, "max_num_batched_tokens", Limits().max_num_batched_tokens),
    )
    precision = _choice(text, options, "precision", get_args(Precision))
    kv_bytes = KV_BYTES[_choice(text, options, "kv", tuple(KV_BYTES)) or "bf16"]
    usable = _share(text, options, "memory", USABLE)
    name = options.get("name") or f"{title}-{card.name}{f'-{precision}' if precision else ''}{f'-tp{tp}' * (tp > 1)}"
    chosen = msgspec.convert(precision, Precision | None)
    try:
        return roofline(
            config, card, tp=tp, precision=chosen, kv_bytes=kv_bytes, usable=usable, limits=limits, name=name
        )
    except FleetError:
        raise
    except ValueError as error:  # limits that do not go together
        raise FleetError(f"{text}: {error}") from error


def _config(model: str) -> tuple[Mapping[str, Any], str]:
    """(a model's config, its name)"""
    if model in CONFIGS:
        return CONFIGS[model], model
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    try:
        held = json.loads(path.read_bytes())
    except OSError as error:
        near = difflib.get_close_matches(model, list(CONFIGS), n=1, cutoff=0.5)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise FleetError(f"{model}: {error.strerror}{meant}; {USAGE}") from error
    except ValueError as error:
        raise FleetError(f"{path}: not JSON: {error}") from error
    if not isinstance(held, dict):
        raise FleetError(f"{path}: no model's config.json, which is an object")
    return held, path.resolve().parent.name if path.name == "config.json" else path.stem


def _options(text: str, rest: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        key = key.strip().replace("-", "_")
        if key not in OPTIONS:
            near = difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.5)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise FleetError(f"{text}: unknown option {key!r}{meant}; there are {', '.join(OPTIONS)}")
        if not equals or not value.strip():
            raise FleetError(f"{text}: {key} needs a value, such as {key}=...")
        if key in options:
            raise FleetError(f"{text}: {key} is given twice")
        options[key] = value.strip()
    return options


def _count(text: str, options: Mapping[str, str], key: str, otherwise: int) -> int:
    value = options.get(key, str(otherwise))
    if not value.isdecimal() or int(value) < 1:
        raise FleetError(f"{text}: {key} is a whole number of at least 1, not {value}")
    return int(value)


def _share(text: str, options: Mapping[str, str], key: str, otherwise: float) -> float:
    try:
        value = float(options.get(key, otherwise))
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise FleetError(f"{text}: {key} is a share of the GPU's memory between 0 and 1, not {options[key]}")
    return value


def _choice(text: str, options: Mapping[str, str], key: str, known: tuple[str, ...]) -> str | None:
    value = options.get(key)
    if value is not None and value not in known:
        raise FleetError(f"{text}: {key} is one of {', '.join(known)}, not {value}")
    return value
