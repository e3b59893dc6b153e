"""What the control plane needs from the router behind it, and the shapes it shows."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec


class EventStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica's KV events. What only the router that follows them knows is None at the others."""

    address: str
    """Where they are published."""
    foreign: bool
    """Another router follows them, and shares what they tell."""
    connected: bool | None = None
    next_sequence: int | None = None
    """The number of the batch that is due."""
    last_batch_seconds: float | None = None
    """Since the last batch came [seconds]."""
    batches: int | None = None
    """Batches applied."""
    gaps: int | None = None
    """Times that batches were missing."""
    lost: int | None = None
    """Times that they could not be had again, and what the replica held was forgotten."""
    restarts: int | None = None
    """Times that its events began anew."""


class CanaryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted against reported cached tokens of one replica."""

    disagreement: float = 0.0
    """Share of the cached tokens of the last requests that the two accounts disagree about [0..1]."""
    alarm: bool = False
    hint: str = ""
    """The likely cause of the alarm, in words."""


class SharingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How knowledge is shared with other routers."""

    state: str
    """ok, unreachable, slow, full, refused or wrong."""
    state_seconds: float
    """Since when it has been in this state [seconds]."""
    routers: int
    """Other routers that are alive."""
    foreign: int
    """Their open requests."""
    lag_seconds: float
    """How old what is heard of them may be [seconds]."""
    round_trip_seconds: float
    """Of a batch of writes, moving mean [seconds]."""
    ingesting: int
    """Replicas whose KV events this router follows for all."""


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
    knowledge: str = "expected"
    """What the knowledge of its cache rests on: expected, recovering or exact."""
    about: str = ""
    """Where that knowledge comes from, and why: a sentence."""
    events: EventStatus | None = None
    """None: it publishes no KV events that can be used."""
    canary: CanaryStatus = CanaryStatus()
    observed_blocks: dict[str, int] = msgspec.field(default_factory=dict)
    """Blocks that its KV events tell of, by medium (gpu, cpu, disk)."""
    cached_tokens: float = 0.0
    """KV tokens that it is believed to hold; what its KV events tell of, where the knowledge is exact [tokens]."""
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
    knowledge: str = "expected"
    """How the hit is known: expected, recovering or exact."""
    scorers: tuple[ScorerSeconds, ...] = ()


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request would go where it would go."""

    policy: str
    model: str
    prompt_tokens: int
    chosen: str | None
    candidates: tuple[CandidateCost, ...]
    lens: str = "text"
    """What the prompt was keyed by: token or text."""
    lens_about: str = ""
    """Which lens that is, and why: a sentence."""
    keyed_tokens: int = 0
    """Tokens of the prompt in whole blocks, of which hits can be known [tokens]."""
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

    def sharing(self) -> SharingStatus | None:
        """How knowledge is shared; None: with nobody."""
        ...

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
