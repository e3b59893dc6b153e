"""One replica: what it is, where it stands in its life, and its load as a list of floats."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from kvroute.router.core.sources import Source
from kvroute.scorers.contract import Column, Role

_WIDTH = len(Column)


class State(enum.Enum):
    """Where a replica stands in its life."""

    JOINING = "joining"
    READY = "ready"
    DRAINING = "draining"
    EJECTED = "ejected"
    GONE = "gone"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.JOINING: frozenset({State.READY, State.DRAINING, State.EJECTED, State.GONE}),
    State.READY: frozenset({State.DRAINING, State.EJECTED, State.GONE}),
    State.DRAINING: frozenset({State.READY, State.EJECTED, State.GONE}),
    State.EJECTED: frozenset({State.READY, State.DRAINING, State.GONE}),
    State.GONE: frozenset(),
}


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica is: one (endpoint, model, data-parallel rank)."""

    name: str
    endpoint: str
    """Name of the endpoint, shared by its ranks."""
    models: tuple[str, ...]
    """Every name it serves its model under."""
    adapters: frozenset[str] = frozenset()
    """LoRA adapters it has loaded; each is a model name of its own."""
    rank: int | None = None
    """Data-parallel rank, or None where the endpoint has one engine."""
    role: Role = Role.BOTH
    slots: float = 256.0
    """`max_num_seqs`, which the engine does not export [sequences]."""
    labels: Mapping[str, str] = {}


class Replica:
    """A member of the fleet. `cells` are its numbers, indexed by `Column`; change them through the fleet."""

    __slots__ = (
        "busy_at",
        "cells",
        "epoch",
        "name",
        "open",
        "pending",
        "resident",
        "row",
        "sequences",
        "since",
        "slow",
        "source",
        "spec",
        "state",
    )

    def __init__(self, spec: Spec, row: int, now: float) -> None:
        self.spec = spec
        self.name = spec.name
        """Unique name, `host:port` or `host:port/rank`; it never changes."""
        self.row = row
        """Its row in the table and the index; -1 once it is gone and the row is another's."""
        self.since = now
        """When it joined [s]."""
        self.epoch = 0
        """Lives of its engine: leases of an earlier one no longer say what its cache holds."""
        self.cells = [0.0] * _WIDTH
        self.state = State.JOINING
        self.open = 0
        """Leases not yet settled."""
        self.sequences = 0
        """Sequences of those: what the engine counts as running and waiting."""
        self.pending = 0
        """Leases without first output."""
        self.busy_at = now
        """When BUSY was last brought up to date [s]."""
        self.slow = 1.0
        """Learned factor on the step model's times: 2.0 is a replica half as fast as the model says."""
        self.source = Source.EXPECTED
        """Where the knowledge of its cache comes from; `Deciding.sourced` changes it."""
        self.resident: frozenset[str] | None = None
        """LoRA adapters on the device as `/metrics` last said; None = it does not say, so all are taken to be."""
