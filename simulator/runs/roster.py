"""Who takes part in a run: a scenario's replicas, as the routers are told of them."""

from __future__ import annotations

import msgspec

from kvroute.router.core.replica import Spec
from kvroute.scorers.contract import Role
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.runs.router import MODEL, PREFILL
from kvroute.simulator.runs.scenario import Scenario


def specs(scenario: Scenario, key_tokens: int) -> list[tuple[Spec, Kind]]:
    """Each replica of a scenario; an endpoint's ranks are replicas of their own.

    Raises:
        FleetError: there is none, or a block size that the workload's keys do not fit.
    """
    pairs = paired(scenario)
    found = []
    for number, kind in enumerate(scenario.replicas):
        limits = kind.limits
        if key_tokens % limits.block_size:
            raise FleetError(
                f"the workload's keys stand for {key_tokens} tokens, which is no multiple of the block size"
                f" {limits.block_size} of {kind.name}"
            )
        own = msgspec.structs.replace(kind, limits=msgspec.structs.replace(limits, key_tokens=key_tokens))
        endpoint = f"replica-{number}"
        names = [endpoint] if kind.ranks == 1 else [f"{endpoint}/{rank}" for rank in range(kind.ranks)]
        found += [(_spec(name, endpoint, kind, pairs), own) for name in names]
    if not found:
        raise FleetError("a fleet needs at least one replica")
    return found


def paired(scenario: Scenario) -> bool:
    """Whether some replicas only prefill.

    Raises:
        FleetError: nobody is left to decode, or routers would have to share what pairs do.
    """
    roles = [kind.role for kind in scenario.replicas]
    if Role.PREFILL not in roles:
        return False
    if all(role is Role.PREFILL for role in roles):
        raise FleetError("replicas that only prefill answer nobody: add some of role decode or both")
    if scenario.lateness.routers > 1 and scenario.lateness.share_seconds is not None:
        raise FleetError("fleets with prefill replicas are simulated with routers that do not share what they send")
    return True


def _spec(name: str, endpoint: str, kind: Kind, pairs: bool) -> Spec:
    models: tuple[str, ...] = (MODEL,)
    if kind.role is Role.PREFILL:
        models = (PREFILL,)
    elif kind.role is Role.BOTH and pairs:
        models = (MODEL, PREFILL)
    # In the pool of those that are asked for a prefill nobody is to be left out for it.
    role = Role.BOTH if kind.role is Role.PREFILL else kind.role
    return Spec(name=name, endpoint=endpoint, models=models, role=role, slots=float(kind.limits.max_num_seqs))
