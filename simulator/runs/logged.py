"""The scenario that a decision log was written in, as far as the log tells; the rest is the preset's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from kvroute.router.core.decided import Began
from kvroute.scorers.contract import Role
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.runs.scenario import Lateness, Scenario
from kvroute.simulator.workloads.contract import Job, Workload
from kvroute.simulator.workloads.decisions import Seen

SHARE_SECONDS = 0.005
"""How late routers hear of each other through Redis, unless they were told otherwise [s]."""


def kinds(seen: Sequence[Seen], kind: Kind, key_tokens: int) -> tuple[Kind, ...]:
    """The log's fleet: `kind`, each with the role, the slots and the cache that the log tells of it.

    Raises:
        FleetError: the log tells of no replica, or of one that `kind` cannot be.
    """
    if not seen:
        raise FleetError("no replica of the log was ever ready; say with --replicas what to simulate")
    return tuple(_kind(one, kind, key_tokens) for one in seen)


def _kind(one: Seen, kind: Kind, key_tokens: int) -> Kind:
    limits, size = kind.limits, one.block_tokens
    if size is not None and key_tokens % size == 0 and size != limits.block_size:
        blocks = kind.cache_tokens // size + 1
        limits = msgspec.structs.replace(limits, block_size=size, blocks=blocks)
    if one.capacity_tokens is not None:
        # The engine tells its blocks times their size.
        limits = msgspec.structs.replace(limits, blocks=max(2, int(one.capacity_tokens) // limits.block_size))
    limits = msgspec.structs.replace(limits, max_num_seqs=int(one.slots))
    try:
        return msgspec.structs.replace(kind, role=Role[one.role.upper()], limits=limits)
    except ValueError as error:
        raise FleetError(
            f"{one.name}, as the log tells of it, cannot be a {kind.name}: {error}; name a kind of other limits with"
            " --preset, or a fleet with --replicas"
        ) from error


def scenario(began: Began, replicas: tuple[Kind, ...], *, routers: int, exact: bool) -> Scenario:
    """As the log was written. `routers` wrote it; `exact`: KV events told what the replicas held."""
    share = SHARE_SECONDS if began.shared and routers > 1 else None
    lateness = Lateness("exact" if exact else "expected", routers=routers, share_seconds=share)
    return Scenario(replicas, began.policy, began.seed, lateness)


class Ordered:
    """A workload that notes the order in which its jobs are sent: that of an outcome's rows."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self.name, self.key_tokens = workload.name, workload.key_tokens
        self._sent: list[tuple[float, int, int, str]] = []

    def arrivals(self) -> Iterator[Job]:
        """As they are."""
        for job in self._workload.arrivals():
            self._note(job, 1)
            yield job

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """As they are."""
        following = self._workload.after(job, now)
        for one in following:
            self._note(one, 0)  # at equal times these are sent first
        return following

    def ids(self) -> list[str]:
        """Of the jobs, in the order in which they were sent."""
        return [name for *_, name in sorted(self._sent)]

    def _note(self, job: Job, rank: int) -> None:
        self._sent.append((job.at, rank, len(self._sent), job.request.id))
