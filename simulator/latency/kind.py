"""A kind of replica: how fast it is, what it holds, what lies between it and its clients."""

from __future__ import annotations

import msgspec

from kvroute.router.core.steptime import StepTime
from kvroute.scorers.contract import Role
from kvroute.simulator.engine.limits import Limits


class Ingress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request spends outside of the engine's steps: TTFT = this + queueing + steps [seconds]."""

    seconds: float = 0.004
    """HTTP, parsing, hand-over to the engine, per request [s]."""
    per_token: float = 1e-6
    """Tokenising, per prompt token [s/token]."""
    reply: float = 0.001
    """From the end of a step to the client [s]."""


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a simulated replica is made of. `Kind()` is an 8B model on an H100."""

    name: str = "llama-3.1-8b-h100"
    step: StepTime = StepTime()
    limits: Limits = Limits()
    ingress: Ingress = Ingress()
    role: Role = Role.BOTH
    ranks: int = 1
    """Data-parallel ranks behind its endpoint: each is a replica with a scheduler and a cache of its own."""
    kv_bytes_per_token: float = 131072.0
    """KV cache of one token, all layers [bytes]."""
    link_bytes_per_second: float = 25e9
    """Of the link over which KV is handed to another replica [bytes/s]."""
    source: str = "assumed: an 8B model in bf16 on one H100, round numbers, not fitted to a measurement"
    """Where the numbers come from, for people: measured points, a datasheet, a fit."""
