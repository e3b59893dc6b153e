"""What the control plane needs from the router behind it, and the shapes it shows."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica at this moment. Unknown numbers are None."""

    name: str
    state: str
    """joining, ready, draining, ejected or gone."""
    reason: str = ""
    """Why it is not ready, where it is not."""
    role: str = "both"
    models: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    version: str | None = None
    """The engine's version."""
    in_flight: int = 0
    """Requests that this router has there."""
    requests: float = 0.0
    """Requests running and waiting there, others' included as far as `/metrics` shows them."""
    decoding: float = 0.0
    """Sequences past their first output."""
    queued_tokens: float = 0.0
    """Uncached prompt tokens sent there that have no first output yet [tokens]."""
    queue_seconds: float = 0.0
    """Predicted seconds until those are prefilled [seconds]."""
    busy: float = 0.0
    """30 s moving share of the time it had a request without first output [0..1]."""
    tokens_per_second: float | None = None
    """Learned prefill rate at the load it has now [tokens/s]."""
    base_seconds: float | None = None
    """Learned constant part of TTFT [seconds]."""
    step_seconds: float | None = None
    """Learned time of one decode step [seconds]."""
    observations: int = 0
    """Requests that the learned rate rests on."""
    cached_tokens: float = 0.0
    """KV tokens that it is believed to hold [tokens]."""
    capacity_tokens: float | None = None
    """KV cache size [tokens]."""
    slots: int = 0
    """Most sequences it runs at once."""


class ScorerSeconds(msgspec.Struct, frozen=True):
    """What one scorer said of one candidate."""

    scorer: str
    part: str
    """start: until this request's first token; cost: on others, or later; empty: excludes only."""
    seconds: float | None
    """None: must not be chosen."""
    weight: float = 1.0


class CandidateCost(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate of an explained decision."""

    name: str
    chosen: bool
    total_seconds: float | None
    """Weighted sum that the policy compares; None: excluded, or a policy that does not count in seconds."""
    predicted_ttft: float | None
    """Seconds until the first token."""
    hit_tokens: int
    scorers: tuple[ScorerSeconds, ...] = ()


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request would go where it would go."""

    policy: str
    model: str
    prompt_tokens: int
    chosen: str | None
    candidates: tuple[CandidateCost, ...]
    reasons: tuple[str, ...] = ()
    """Plain sentences, e.g. why nobody could be chosen or that a tie was broken."""


class Router(Protocol):
    """The router as the control plane sees it. All calls are synchronous and quick."""

    @property
    def version(self) -> str: ...

    @property
    def policy(self) -> str: ...

    def ready(self) -> bool:
        """At least one replica is ready."""
        ...

    def replicas(self) -> list[ReplicaStatus]: ...

    def drain(self, name: str) -> None:
        """Send it nothing new. Raises KeyError when no replica has this name."""
        ...

    def undrain(self, name: str) -> None:
        """Undo `drain`. Raises KeyError when no replica has this name."""
        ...

    async def explain(self, path: bytes, body: bytes) -> Explanation:
        """What would be decided for this request now; reserves nothing.

        Raises:
            ClientError: the body is wrong.
            NoReplica: nobody serves its model.
        """
        ...

    def configuration(self) -> dict[str, Any]:
        """The settings in force, JSON-ready and without secrets."""
        ...
