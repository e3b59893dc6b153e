"""The router as its control plane sees it: states, numbers and explanations; it reserves nothing."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from kvroute.router.config import Config
from kvroute.router.control.contract import CandidateCost, Explanation, ReplicaStatus, ScorerSeconds, SharingStatus
from kvroute.router.core.decide import Reason
from kvroute.router.core.pool import Pool
from kvroute.router.core.replica import Replica
from kvroute.router.knowing import Knowing
from kvroute.router.local import LocalPaths
from kvroute.router.membership import Member, Membership
from kvroute.router.traffic import Traffic
from kvroute.scorers.contract import Candidates, Column, Floats, Request
from kvroute.scorers.fused import predicted_start
from kvroute.scorers.pipeline import Pipeline


class Facade:
    """Implements the control plane's Router."""

    def __init__(
        self,
        version: str,
        config: Config,
        traffic: Traffic,
        membership: Membership,
        local: LocalPaths,
        knowing: Knowing,
    ) -> None:
        self._version = version
        self._config = config
        self._traffic = traffic
        self._membership = membership
        self._local = local
        self._knowing = knowing

    @property
    def version(self) -> str:
        """kvroute's version."""
        return self._version

    @property
    def policy(self) -> str:
        """The policy's name, `custom` for a bare list of scorers."""
        return self._config.policy_spec().name or "custom"

    def ready(self) -> bool:
        """At least one replica is ready."""
        return self._local.ready()

    def replicas(self) -> list[ReplicaStatus]:
        """Every replica, listed ones that have not answered yet included."""
        now = self._traffic.clock()
        self._traffic.deciding.ledger.advance(now)
        self._traffic.deciding.fleet.advance(now)
        self._looked(now)
        missing = self._local.missing()
        return [self._status(member, replica, missing) for member, replica in self._membership]

    def sharing(self) -> SharingStatus | None:
        """How knowledge is shared with other routers; None: with nobody."""
        return self._knowing.sharing()

    def drain(self, name: str) -> None:
        """Send it nothing new. Raises KeyError when no replica has this name."""
        self._drain(name, True)

    def undrain(self, name: str) -> None:
        """Undo `drain`. Raises KeyError when no replica has this name."""
        self._drain(name, False)

    def configuration(self) -> dict[str, Any]:
        """The settings in force; keys are named by environment variable only, so no secret is among them."""
        tree: dict[str, Any] = msgspec.to_builtins(self._config)
        return tree

    async def explain(self, path: bytes, body: bytes) -> Explanation:
        """What would be decided for this request now.

        Raises:
            ClientError: the body is wrong.
            NoReplica: nobody can take it.
        """
        request = await self._traffic.read(path, body)
        deciding = self._traffic.deciding
        now = self._traffic.clock()
        pool = deciding.pool(request, now)
        if isinstance(pool, Reason):
            raise self._traffic.nobody(request, pool)
        candidates = deciding.candidates(request, pool, now)
        self._looked(now)
        policy = deciding.policy
        # A generator of its own: asking must not change what happens next.
        chosen = policy.choose(request, candidates, now, np.random.default_rng(0)) if _is_sum(policy) else -1
        costs = self._costs(request, pool, candidates, now, chosen)
        reasons = () if _is_sum(policy) else (f"policy {self.policy} does not count in seconds: no choice is foretold",)
        name = pool.names[chosen] if chosen >= 0 else None
        lens, about = self._knowing.lens(request.model)
        return Explanation(
            policy=self.policy,
            model=request.adapter or request.model or "(any)",
            prompt_tokens=request.tokens,
            chosen=name,
            candidates=tuple(costs),
            lens=lens,
            lens_about=about,
            keyed_tokens=min(request.tokens, int(len(request.keys) * request.block_tokens)),
            reasons=reasons,
        )

    # --- inside ---

    def _costs(
        self, request: Request, pool: Pool, candidates: Candidates, now: float, chosen: int
    ) -> list[CandidateCost]:
        policy = self._traffic.deciding.policy
        parts: dict[str, Floats] = {}
        kinds: dict[str, tuple[str, float]] = {}
        if isinstance(policy, Pipeline):
            parts = policy.breakdown(request, candidates, now)
            kinds = {one.name: (one.scorer.part, one.weight) for one in policy.scorers}
        costs = []
        for i, replica in enumerate(pool.replicas):
            hit = float(candidates.hit_tokens[i])
            scorers = tuple(
                ScorerSeconds(name, kinds[name][0], _finite(float(seconds[i])), kinds[name][1])
                for name, seconds in parts.items()
            )
            costs.append(
                CandidateCost(
                    name=replica.name,
                    chosen=i == chosen,
                    total_seconds=_finite(sum(float(seconds[i]) for seconds in parts.values())) if parts else None,
                    predicted_ttft=replica.cells[Column.BASE_SECONDS] + predicted_start(request, candidates, i),
                    hit_tokens=int(hit),
                    knowledge=replica.source.value,
                    scorers=scorers,
                )
            )
        return costs

    def _looked(self, now: float) -> None:
        if self._traffic.decisions is not None:
            self._traffic.decisions.looked(now)

    def _drain(self, name: str, drained: bool) -> None:
        if not self._membership.drain(name, drained):
            raise KeyError(name)

    def _status(self, member: Member, replica: Replica, missing: dict[str, str]) -> ReplicaStatus:
        deciding = self._traffic.deciding
        cell = replica.cells
        rate = deciding.estimate.rate(replica)
        queue = cell[Column.QUEUED_TOKENS] * cell[Column.SECONDS_PER_TOKEN] + cell[Column.OUTSIDE_SECONDS]
        return ReplicaStatus(
            name=replica.name,
            state=replica.state.value,
            reason=missing.get(replica.spec.endpoint, member.reason),
            role=replica.spec.role.name.lower(),
            models=replica.spec.models,
            adapters=tuple(sorted(replica.spec.adapters)),
            labels=dict(replica.spec.labels),
            version=member.served.version if member.served else None,
            in_flight=replica.open,
            requests=cell[Column.REQUESTS],
            decoding=cell[Column.DECODING],
            queued_tokens=cell[Column.QUEUED_TOKENS],
            queue_seconds=queue + cell[Column.QUEUED_QUADRATIC] * cell[Column.SECONDS_PER_QUADRATIC],
            busy=cell[Column.BUSY],
            tokens_per_second=1.0 / cell[Column.SECONDS_PER_TOKEN],
            base_seconds=deciding.estimate.line.base,
            step_seconds=cell[Column.STEP_SECONDS],
            observations=rate.observed,
            knowledge=replica.source.value,
            about=self._knowing.about(replica),
            events=self._knowing.events(replica),
            canary=self._knowing.canary(replica),
            observed_blocks=self._knowing.observed(replica),
            cached_tokens=self._knowing.cached_tokens(replica),
            capacity_tokens=_finite(cell[Column.CAPACITY_TOKENS]),
            slots=int(replica.spec.slots),
        )


def _is_sum(policy: object) -> bool:
    return isinstance(policy, Pipeline)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
