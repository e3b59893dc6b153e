"""The replicas: identity, role, life cycle, and their load.

Each replica's load is a list of floats, which one request changes at a tenth of the cost of array elements; `table`
shows all of them as numpy columns, brought up to date when somebody looks.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from kvroute.router.core.steptime import StepTime
from kvroute.scorers.contract import Column, Floats, Role

BUSY_SECONDS = 30.0
"""Time constant of `Column.BUSY`."""
BUSY_REFRESH_SECONDS = 0.1
"""How stale BUSY may be at a decision: at most 0.33 % off."""


# Plain ints: an enum member costs more to use as an index than the addition it is for.
_QUEUED, _QUADRATIC, _REQUESTS = int(Column.QUEUED_TOKENS), int(Column.QUEUED_QUADRATIC), int(Column.REQUESTS)
_DECODING, _BUSY, _CHOSEN, _ACTIVE = (
    int(Column.DECODING),
    int(Column.BUSY),
    int(Column.CHOSEN),
    int(Column.ACTIVE_TOKENS),
)
_CACHED, _PER_TOKEN = int(Column.CACHED_TOKENS), int(Column.SECONDS_PER_TOKEN)
_PER_QUADRATIC, _STEP = int(Column.SECONDS_PER_QUADRATIC), int(Column.STEP_SECONDS)
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
        self.resident: frozenset[str] | None = None
        """LoRA adapters on the device as `/metrics` last said; None = it does not say, so all are taken to be."""


class Pool:
    """The ready replicas that serve one model name, fixed until the fleet changes."""

    __slots__ = ("adapter_resident", "cells", "contiguous", "labels", "names", "replicas", "row_list", "rows", "size")

    def __init__(self, replicas: Iterable[Replica], model: str) -> None:
        self.replicas = tuple(sorted(replicas, key=lambda replica: replica.row))
        self.size = len(self.replicas)
        self.names = tuple(replica.name for replica in self.replicas)
        self.labels = tuple(replica.spec.labels for replica in self.replicas)
        self.cells = [replica.cells for replica in self.replicas]
        """The replicas' own lists, which change as their load does."""
        self.row_list = [replica.row for replica in self.replicas]
        self.rows: NDArray[np.intp] = np.array(self.row_list, dtype=np.intp)
        self.contiguous = all(replica.row == i for i, replica in enumerate(self.replicas))
        """Rows are 0..size-1: the table needs no gather."""
        self.adapter_resident: Floats | None = None
        if any(model in replica.spec.adapters for replica in self.replicas):
            resident = [replica.resident is None or model in replica.resident for replica in self.replicas]
            self.adapter_resident = np.array(resident, dtype=np.float64)

    def without(self, names: frozenset[str]) -> Pool:
        """The pool less some replicas, for a retry."""
        rest = Pool((replica for replica in self.replicas if replica.name not in names), "")
        if self.adapter_resident is not None:
            kept = [name not in names for name in self.names]
            rest.adapter_resident = self.adapter_resident[kept]
        return rest


class Fleet:
    """All replicas. Rows are reused only after a replica is gone and its last lease is settled."""

    def __init__(self, step: StepTime | None = None, rows: int = 8) -> None:
        self.step = step or StepTime()
        self._rows_table: Floats = np.zeros((rows, _WIDTH))
        self._stale: set[Replica] = set()
        self.version = 0
        """Changes whenever membership or a state does."""
        self._replicas: dict[str, Replica] = {}
        self._leaving: dict[int, Replica] = {}
        self._free: list[int] = []
        self._rows = 0
        self._pools: dict[str, Pool] = {}
        self._bases: dict[str, tuple[str, str | None]] = {}
        self._refreshed = -math.inf

    # --- membership ---

    @property
    def rows(self) -> int:
        """Rows ever used: columns beyond are empty."""
        return self._rows

    @property
    def table(self) -> Floats:
        """Every replica's numbers, shape (len(Column), rows): a view of what holds until the next change."""
        if self._stale:
            for replica in self._stale:
                if replica.row >= 0:
                    self._rows_table[replica.row] = replica.cells
            self._stale.clear()
        return self._rows_table.T

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def __len__(self) -> int:
        return len(self._replicas)

    def get(self, name: str) -> Replica | None:
        """The replica of that name, unless it is gone."""
        return self._replicas.get(name)

    def join(self, spec: Spec, now: float) -> Replica:
        """Add a replica in state JOINING.

        Raises:
            ValueError: a replica of that name is already here.
        """
        if spec.name in self._replicas:
            raise ValueError(f"replica {spec.name} is already in the fleet")
        row = self._free.pop() if self._free else self._new_row()
        replica = Replica(spec, row, now)
        cells = replica.cells
        cells[Column.CAPACITY_TOKENS] = math.inf
        cells[Column.SLOTS] = spec.slots
        cells[Column.ROLE] = float(spec.role)
        cells[Column.OUTPUT_TOKENS] = 128.0
        cells[Column.ADAPTER_SECONDS] = 1.0
        self._replicas[spec.name] = replica
        self.refresh_rate(replica)
        self._changed()
        return replica

    def move(self, replica: Replica, state: State) -> None:
        """Take a life-cycle step.

        Raises:
            ValueError: the transition table does not allow it.
        """
        if state not in TRANSITIONS[replica.state]:
            raise ValueError(f"replica {replica.name} cannot go from {replica.state.value} to {state.value}")
        replica.state = state
        if state is State.GONE:
            del self._replicas[replica.name]
            self._leaving[replica.row] = replica
            self.reclaim(replica)
        self._changed()

    def reclaim(self, replica: Replica) -> None:
        """Free the row of a replica that is gone, once no lease is left on it."""
        if replica.state is State.GONE and replica.open == 0 and self._leaving.pop(replica.row, None) is not None:
            self._free.append(replica.row)
            replica.row = -1

    def update(self, replica: Replica, spec: Spec) -> None:
        """New models, adapters or labels for a replica that stays where it is."""
        replica.spec = spec
        self.write(replica, Column.SLOTS, spec.slots)
        self.write(replica, Column.ROLE, float(spec.role))
        self._changed()

    def write(self, replica: Replica, column: Column, value: float) -> None:
        """Write one of a replica's numbers."""
        replica.cells[column] = value
        self._stale.add(replica)

    def add(self, replica: Replica, column: Column, value: float) -> None:
        """Add to one of a replica's numbers."""
        replica.cells[column] += value
        self._stale.add(replica)

    def set_resident(self, replica: Replica, adapters: frozenset[str] | None) -> None:
        """Which LoRA adapters the replica has on its device now."""
        if adapters != replica.resident:
            replica.resident = adapters
            self._changed()

    def _new_row(self) -> int:
        row = self._rows
        self._rows += 1
        held = self._rows_table
        if row >= held.shape[0]:
            self._rows_table = np.zeros((held.shape[0] * 2, _WIDTH))
            self._rows_table[: held.shape[0]] = held
        return row

    def _changed(self) -> None:
        self.version += 1
        self._pools.clear()
        self._bases.clear()

    # --- who serves what ---

    def base(self, model: str) -> tuple[str, str | None]:
        """The (base model, adapter) behind a model name: aliases share a cache, so they share a base."""
        found = self._bases.get(model)
        if found is not None:
            return found
        for replica in self._replicas.values():
            spec = replica.spec
            if spec.models and (model in spec.models or model in spec.adapters or not model):
                found = self._bases[model] = (spec.models[0], model if model in spec.adapters else None)
                return found
        return model, None  # not remembered: clients make up names without end

    def models(self) -> set[str]:
        """Every model and adapter name that some replica serves, ready or not."""
        return {name for r in self._replicas.values() for name in (*r.spec.models, *r.spec.adapters)}

    def pool(self, model: str) -> Pool | None:
        """Ready replicas serving a model or adapter name; an empty pool when those that do are not ready; None when
        nobody does."""
        pool = self._pools.get(model)
        if pool is None:
            serving = [r for r in self._replicas.values() if model in r.spec.models or model in r.spec.adapters]
            if not serving:
                return None
            pool = self._pools[model] = Pool((r for r in serving if r.state is State.READY), model)
        return pool

    def everyone(self) -> Pool:
        """All ready replicas, for requests that name no model."""
        pool = self._pools.get("")
        if pool is None:
            pool = self._pools[""] = Pool((r for r in self._replicas.values() if r.state is State.READY), "")
        return pool

    # --- load ---

    def begin(
        self, replica: Replica, tokens: float, quadratic: float, chosen: int, now: float, sequences: int = 1
    ) -> None:
        """A request was promised to the replica: its prefill is queued from now on."""
        if replica.pending == 0:
            self._note_busy(replica, now)
        cells = replica.cells
        cells[_QUEUED] += tokens
        cells[_QUADRATIC] += quadratic
        cells[_REQUESTS] += sequences
        cells[_CHOSEN] = chosen
        replica.open += 1
        replica.sequences += sequences
        replica.pending += 1
        self._stale.add(replica)

    def prefilled(self, replica: Replica, tokens: float, quadratic: float, sequences: int, now: float) -> None:
        """The request's prefill has ended: it decodes from now on."""
        self._unqueue(replica, tokens, quadratic, now)
        replica.cells[_DECODING] += sequences
        self.refresh_rate(replica)

    def end(self, replica: Replica, now: float, *, queued: tuple[float, float] | None, sequences: int) -> None:
        """The request is over; `queued` are its tokens and quadratic when its prefill had not ended."""
        cells = replica.cells
        if queued is not None:
            self._unqueue(replica, *queued, now)
        else:
            cells[_DECODING] -= sequences
            self.refresh_rate(replica)
        cells[_REQUESTS] -= sequences
        replica.open -= 1
        replica.sequences -= sequences
        if replica.state is State.GONE:
            self.reclaim(replica)

    def weigh(self, replica: Replica, active_tokens: float, cached_tokens: float) -> None:
        """What the replica's cache holds now [tokens]."""
        cells = replica.cells
        cells[_ACTIVE] = active_tokens
        cells[_CACHED] = cached_tokens
        self._stale.add(replica)

    def _unqueue(self, replica: Replica, tokens: float, quadratic: float, now: float) -> None:
        cells = replica.cells
        cells[_QUEUED] -= tokens
        cells[_QUADRATIC] -= quadratic
        if replica.pending == 1:
            self._note_busy(replica, now)
        replica.pending -= 1
        self._stale.add(replica)

    def _note_busy(self, replica: Replica, now: float) -> None:
        """Bring BUSY up to `now` under the state that held until now: called just before `pending` changes."""
        busy = 1.0 if replica.pending else 0.0
        cells = replica.cells
        cells[_BUSY] = busy + (cells[_BUSY] - busy) * math.exp((replica.busy_at - now) / BUSY_SECONDS)
        replica.busy_at = now
        self._stale.add(replica)

    def advance(self, now: float) -> None:
        """Bring every replica's BUSY near `now`."""
        if now - self._refreshed < BUSY_REFRESH_SECONDS:
            return
        self._refreshed = now
        for replica in self._replicas.values():
            self._note_busy(replica, now)

    def refresh_rate(self, replica: Replica) -> None:
        """Recompute what depends on the replica's decodes: its prefill rate and its step time."""
        cells, step, slow = replica.cells, self.step, replica.slow
        decoding, kv_tokens = cells[_DECODING], cells[_ACTIVE]
        cells[_PER_TOKEN] = slow * step.seconds_per_token(decoding, kv_tokens)
        cells[_PER_QUADRATIC] = slow * step.c4
        cells[_STEP] = slow * step.decode_step(decoding, kv_tokens)
        self._stale.add(replica)
