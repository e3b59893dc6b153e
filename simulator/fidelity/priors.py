"""What is thought of a step time before a run is looked at: weights are read once a step, and met by every token."""

from __future__ import annotations

import math
import re

from kvroute.simulator.fidelity.recording import Recording
from kvroute.simulator.fidelity.regression import Prior
from kvroute.simulator.latency.gpus import ALIASES, GPUS, Gpu

READ = 0.88
"""Share of the datasheet's memory rate that reading weights reaches."""
LAUNCH = 1e-3
"""Seconds a step beyond that."""
READ_DOUBT = 0.12
"""Relative standard error of the two together."""
COMPUTED = 0.6
"""Share of the datasheet's matrix rate that prefill reaches."""
COMPUTE_DOUBT = 0.5
"""Relative standard error of that."""
UNTOLD = Prior(0.0, math.inf)
SEQUENCE, ATTENTION = Prior(2e-5, 1e-4), Prior(2e-9, 2e-8)
"""Of c1 and c4."""
MIXED, NOTHING = Prior(1e-7, 3e-7), Prior(0.0, 0.0)
"""Of c5, where there is one and where there is none."""


def priors(recording: Recording, mixed: bool = True) -> tuple[Prior, ...]:
    """Of c0..c5; wide, so that they matter only where the run itself does not tell. Without `mixed`, c5 is 0."""
    billions = parameters(recording.model)
    row = datasheet(recording.hardware)
    rate = recording.machine.get("mem_bw") or (row.memory_rate / 1e9 if row else 0.0)
    c0 = c3 = UNTOLD
    if billions is not None and rate:
        c0 = _within(2.0 * billions / recording.tp / (rate * READ) + LAUNCH, READ_DOUBT)
    if billions is not None and row is not None:
        c3 = _within(2e9 * billions / recording.tp / (row.bf16 * COMPUTED), COMPUTE_DOUBT)
    return (c0, SEQUENCE, UNTOLD, c3, ATTENTION, MIXED if mixed else NOTHING)


def parameters(model: str) -> float | None:
    """Billions of parameters as the name says (`Llama-3.1-8B`); None for mixtures of experts and narrow types."""
    if re.search(r"-A\d|\dx\d|fp8|fp4|awq|gptq|int4|int8|w4a|w8a|bnb|gguf", model, re.IGNORECASE):
        return None
    plain = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)B(?![a-z])", model, re.IGNORECASE)
    return float(plain.group(1)) if plain else None


def datasheet(hardware: str) -> Gpu | None:
    """The GPU that a folder is named after, if it is a known one: `RTXPRO6000`, `H100`."""
    wanted = _letters(hardware)
    known = {_letters(name): GPUS[name] for name in GPUS} | {_letters(name): GPUS[of] for name, of in ALIASES.items()}
    return known.get(wanted)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("geforce")


def _within(value: float, doubt: float) -> Prior:
    return Prior(value, doubt * value)
