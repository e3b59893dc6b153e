"""All replicas: who is here, who serves what, and their load.

Each replica's load is a list of floats, which one request changes at a tenth of the cost of array elements; `table`
shows all of them as numpy columns, brought up to date when somebody looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any

import numpy as np

from kvroute.router.core.pool import Pool
from kvroute.router.core.replica import TRANSITIONS, Replica, Spec, State
from kvroute.router.core.steptime import StepTime
from kvroute.scorers.contract import Column, Floats, Standing
from kvroute.scorers.pipeline import StandingOf

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
_ROW = Struct(f"{_WIDTH}d")


class Fleet:
    """All replicas. Rows are reused only after a replica is gone and its last lease is settled."""

    def __init__(self, step: StepTime | None = None, rows: int = 8) -> None:
        self.step = step or StepTime()
        self._allot(rows)
        self._stale: set[Replica] = set()
        """Whose load has changed since somebody looked at `standings`."""
        self._behind: set[Replica] = set()
        """Others whose load has changed since somebody looked at `table`."""
        self.standing_of: StandingOf | None = None
        """What the policy's sum derives of a replica's load, whatever the request."""
        self.version = 0
        """Changes whenever membership or a state does."""
        self._replicas: dict[str, Replica] = {}
        self._leaving: dict[int, Replica] = {}
        self._free: list[int] = []
        self._rows = 0
        self._pools: dict[str, Pool] = {}
        self._bases: dict[str, tuple[str, str | None]] = {}
        self._refreshed = -math.inf

    def _allot(self, rows: int) -> None:
        """Room for so many rows, empty."""
        self._rows_table: Floats = np.zeros((rows, _WIDTH))
        # Writing through these costs half of what assigning to the arrays does.
        self._cells = self._rows_table.data.cast("B")
        self._standings = [np.zeros(rows) for _ in Standing]
        self._standing_cells: list[Any] = [column.data for column in self._standings]  # memoryviews of doubles

    # --- membership ---

    @property
    def rows(self) -> int:
        """Rows ever used: columns beyond are empty."""
        return self._rows

    @property
    def table(self) -> Floats:
        """Every replica's numbers, shape (len(Column), rows): a view of what holds until the next change."""
        self._derive()
        if self._behind:
            cells = self._cells
            for replica in self._behind:
                row = replica.row
                if row >= 0:
                    _ROW.pack_into(cells, row * _ROW.size, *replica.cells)
            self._behind.clear()
        return self._rows_table.T

    @property
    def standings(self) -> Sequence[Floats]:
        """Every replica's `Standing` under the policy, as columns: views of what holds until the next change."""
        if self._stale:
            self._derive()
        return self._standings

    def _derive(self) -> None:
        derive = self.standing_of
        if derive is not None:
            ahead, linear, quadratic, slack, chosen = self._standing_cells
            for replica in self._stale:
                row = replica.row
                if row >= 0:
                    ahead[row], linear[row], quadratic[row], slack[row], chosen[row] = derive(replica.cells)
        self._behind |= self._stale
        self._stale.clear()

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
        held, standings = self._rows_table, self._standings
        if row >= held.shape[0]:
            self._allot(held.shape[0] * 2)
            self._rows_table[: held.shape[0]] = held
            for new, old in zip(self._standings, standings, strict=True):
                new[: old.shape[0]] = old
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
            cells[_QUEUED] = cells[_QUADRATIC] = 0.0  # sums of parts of blocks leave a rest of rounding
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
