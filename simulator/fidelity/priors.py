"""What is thought of a step time before a run is looked at: its weights are read once a step."""

from __future__ import annotations

import math
import re

from kvroute.simulator.fidelity.recording import Recording
from kvroute.simulator.fidelity.regression import Prior

READ = 0.88
"""Share of the datasheet's memory rate that reading weights reaches."""
LAUNCH = 1e-3
"""Seconds a step beyond that."""
DOUBT = 0.12
"""Relative standard error of the two together."""
UNTOLD = Prior(0.0, math.inf)
EXTRA = Prior(1e-7, 3e-7)
NOTHING = Prior(0.0, 0.0)


def priors(recording: Recording, mixed: bool = True) -> tuple[Prior, ...]:
    """Of c0..c5; wide, so that they matter only where the run itself does not tell. Without `mixed`, c5 is 0."""
    billions = parameters(recording.model)
    rate = recording.machine.get("mem_bw")
    c0 = UNTOLD
    if billions is not None and rate:
        value = 2.0 * billions / recording.tp / (rate * READ) + LAUNCH
        c0 = Prior(value, DOUBT * value)
    return (c0, Prior(2e-5, 1e-4), UNTOLD, UNTOLD, Prior(2e-9, 2e-8), EXTRA if mixed else NOTHING)


def parameters(model: str) -> float | None:
    """Billions of parameters as the name says (`Llama-3.1-8B`); None for mixtures of experts and narrow types."""
    if re.search(r"-A\d|\dx\d|fp8|fp4|awq|gptq|int4|int8|w4a|w8a|bnb|gguf", model, re.IGNORECASE):
        return None
    plain = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)B(?![a-z])", model, re.IGNORECASE)
    return float(plain.group(1)) if plain else None
