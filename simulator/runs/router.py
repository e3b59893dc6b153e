"""One simulated router: the live decision code, told of what happened as late as the live one is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec
import numpy as np

from kvroute.router.core import changes as told
from kvroute.router.core.changes import Medium
from kvroute.router.core.decide import Deciding, Decision, Reason
from kvroute.router.core.fleet import Fleet
from kvroute.router.core.index import Index
from kvroute.router.core.ledger import Lease
from kvroute.router.core.outside import MEAN_MISS_TOKENS, Outside
from kvroute.router.core.replica import Replica, Spec, State
from kvroute.router.core.sources import Source
from kvroute.scorers.contract import Column, Policy, Request
from kvroute.simulator.engine.step import Change, Removed, Stored
from kvroute.simulator.latency.kind import Kind

MODEL = "m"
PREFILL = "m for a prefill"
"""The name under which those replicas are asked that run the first half of a pair."""
MISS_SHARE = 0.02
"""Weight of a request in the mean of uncached prompt tokens, as the live router has it."""


class Router:
    """What one router knows and decides. Rows of its fleet are the indices of the run's replicas."""

    def __init__(self, specs: Sequence[tuple[Spec, Kind]], policy: Policy, rng: np.random.Generator) -> None:
        """`specs`: name and kind of each replica, as its /metrics would tell them."""
        fleet = Fleet(rows=len(specs))
        self.deciding = Deciding(fleet, Index(), policy, rng)
        self.replicas: list[Replica] = []
        self._adapters: set[str] = set()
        self._slots: list[int] = []
        self._used_last: list[OrderedDict[str, None]] = []
        """Adapters that were sent to each replica, the longest unused first."""
        for spec, kind in specs:
            replica = fleet.join(spec, 0.0)
            capacity = float(kind.limits.blocks * kind.limits.block_size)
            fleet.write(replica, Column.CAPACITY_TOKENS, capacity)
            self.deciding.occupancy.set_capacity(replica.row, capacity)
            fleet.move(replica, State.READY)
            self.replicas.append(replica)
            self._slots.append(kind.limits.max_loras)
            self._used_last.append(OrderedDict())
        self._sums = [(0.0, 0)] * len(specs)
        """Prefill seconds and computed tokens at the last reading."""
        self._outside = Outside(fleet)
        self._mean_miss = MEAN_MISS_TOKENS

    def exact(self, key_tokens: int) -> None:
        """From here on KV events tell what the replicas hold, one block a key."""
        for replica in self.replicas:
            self.deciding.occupancy.block_tokens[replica.row] = float(key_tokens)
            self.deciding.sourced(replica, Source.EXACT, 0.0)

    def decide(self, request: Request, now: float) -> Decision | Reason:
        """Choose and reserve."""
        adapter = request.adapter
        if adapter is None:
            return self.deciding.decide(request, now)
        if adapter not in self._adapters:
            self._serve(adapter)
        decision = self.deciding.decide(request, now)
        if isinstance(decision, Decision):
            self._used(decision.replica, adapter)
        return decision

    def _serve(self, adapter: str) -> None:
        """Every replica serves every adapter that is asked for."""
        self._adapters.add(adapter)
        for replica in self.replicas:
            adapters = replica.spec.adapters | {adapter}
            self.deciding.fleet.update(replica, msgspec.structs.replace(replica.spec, adapters=adapters))

    def _used(self, replica: Replica, adapter: str) -> None:
        """It will be on the device when the next one comes."""
        used = self._used_last[replica.row]
        used[adapter] = None
        used.move_to_end(adapter)
        if replica.resident is not None and adapter not in replica.resident:
            self.deciding.fleet.set_resident(replica, replica.resident | {adapter})

    def _see_adapters(self, replica: Replica) -> None:
        """A reading tells how many adapters fit: more than that are not on the device, the longest unused first.

        The live router also sees there which are in use; here those are its own requests', which it knows.
        """
        most = self._slots[replica.row]
        if not most or len(replica.spec.adapters) <= most:
            self.deciding.fleet.set_resident(replica, None)
            return
        used = self._used_last[replica.row]
        while len(used) > most:
            used.popitem(last=False)
        self.deciding.fleet.set_resident(replica, frozenset(used))

    def first_output(self, decision: Decision, now: float) -> None:
        """The first token of a stream has passed."""
        self.deciding.ledger.first_output(decision.lease, now)

    def answered(self, request: Request, decision: Decision, cached: int, output: int, now: float) -> None:
        """The last token has passed, and with it the engine's own counts [tokens]."""
        self.deciding.reported(decision, cached, request.tokens)
        self.deciding.settle(request, decision, now, completed=True, output_tokens=output)
        self._mean_miss += MISS_SHARE * (request.tokens - decision.hit_tokens - self._mean_miss)

    def heard(self, row: int, changes: Sequence[Change], now: float) -> None:
        """A batch of KV events has come."""
        replica = self.replicas[row]
        observed = self.deciding.index.observed
        stored: list[int] = []
        for change in _together(changes):
            if isinstance(change, told.Cleared):
                self.deciding.cleared(replica)
            elif isinstance(change, told.Stored):
                stored += change.keys.tolist()
            told.apply(observed, row, (change,))
        if stored:
            self.deciding.stored(replica, stored, now)

    def scraped(self, row: int, running: int, waiting: int, seconds: float, tokens: int) -> None:
        """A reading of a replica's metrics: `seconds` of prefill and `tokens` computed in them since its start."""
        replica = self.replicas[row]
        seconds_before, tokens_before = self._sums[row]
        self._sums[row] = (seconds, tokens)
        self.deciding.estimate.engine_sums(replica, seconds - seconds_before, tokens - tokens_before)
        if self._adapters:
            self._see_adapters(replica)
        self._outside.read(replica, float(running), float(waiting), self._mean_miss)

    # --- what other routers tell ---

    def foreign(self, request: Request, row: int, hit: float, predicted: float, now: float) -> Lease:
        """Another router has sent this request there."""
        return self.deciding.foreign(request, self.replicas[row], hit, predicted, now)


def _together(changes: Sequence[Change]) -> list[told.Change]:
    """The engine's changes as the index takes them, removals in a row as one; a block's hash is its key."""
    found: list[told.Change] = []
    removed: list[int] = []
    for change in changes:
        if isinstance(change, Removed):
            removed.append(change.key)
            continue
        if removed:
            found.append(told.Removed(Medium.GPU, np.array(removed, dtype=np.uint64)))
            removed = []
        if isinstance(change, Stored):
            keys = change.sequence.request.keys[change.first : change.first + change.count]
            words = np.array(keys, dtype=np.uint64)
            found.append(told.Stored(Medium.GPU, words, words))
        else:
            found.append(told.Cleared())
    if removed:
        found.append(told.Removed(Medium.GPU, np.array(removed, dtype=np.uint64)))
    return found
