"""request + fleet + index + policy -> Decision. Looks up, chooses and reserves in one synchronous call, so that a
burst cannot herd."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterable

import msgspec
import numpy as np

from kvroute.router.core.changes import Medium
from kvroute.router.core.estimate import Estimate
from kvroute.router.core.fleet import Fleet
from kvroute.router.core.index import Index
from kvroute.router.core.ledger import Lease, Ledger
from kvroute.router.core.occupancy import Occupancy
from kvroute.router.core.pool import Pool
from kvroute.router.core.replica import Replica, State
from kvroute.router.core.sources import Source
from kvroute.scorers.contract import Candidates, Column, Floats, Policy, Request
from kvroute.scorers.fused import start_of_row
from kvroute.scorers.pipeline import FEW, ChooseMany

NOBODY: frozenset[str] = frozenset()
PATIENCE_SECONDS = 60.0
"""How long an unknown model may be one that a replica which has not answered yet will serve."""
LINGER_SECONDS = 2.0
"""How long released blocks are still expected where KV events tell all: events may come a little after the reply."""
FETCH_SECONDS = (0.0, 5e-6, 2e-5)
"""Default price of one cached token by medium, to bring it back to the GPU [seconds/token]: 128 KiB of KV over 25 GB/s
of PCIe, and over 6.5 GB/s of NVMe."""
_BASE = int(Column.BASE_SECONDS)


class Reason(enum.Enum):
    """Why no replica was chosen."""

    UNKNOWN_MODEL = "no replica serves this model"
    NOT_READY = "no replica that serves this model is ready"
    ALL_TRIED = "every replica that serves this model was tried"
    EXCLUDED = "the policy excludes every replica that serves this model"


class Decision(msgspec.Struct, gc=False):
    """Where a request goes, and what was believed when it was sent there. The lease is already open."""

    replica: Replica
    lease: Lease
    hit_tokens: float
    """Prompt tokens whose KV the chosen replica is believed to hold."""
    best_hit_tokens: float
    """The most that any candidate was believed to hold: the difference is the regret."""
    predicted_ttft: float
    """Seconds from here to the first output."""


class Deciding:
    """The decision, over one fleet and one policy."""

    def __init__(
        self,
        fleet: Fleet,
        index: Index,
        policy: Policy,
        rng: np.random.Generator,
        fetch_seconds: tuple[float, float, float] = FETCH_SECONDS,
    ) -> None:
        self.fleet = fleet
        self.index = index
        self.policy = policy
        self.occupancy = Occupancy(index)
        self.estimate = Estimate(fleet)
        orders = itertools.count(1)
        self.ledger = Ledger(fleet, self.occupancy, self.estimate, orders)
        """This router's own leases."""
        self.others = Ledger(fleet, self.occupancy, self.estimate, orders)
        """Leases of other routers, as far as they are shared."""
        self._fetch_seconds = fetch_seconds
        self._rng = rng
        self._held: Floats = np.zeros(8)
        self._reach: Floats = np.zeros(8)
        # Built-in sums choose among few replicas without numpy: half the cost of a decision.
        self._choose_few = getattr(policy, "choose_few", None)
        self._choose_many: ChooseMany | None
        fleet.standing_of, self._choose_many = getattr(policy, "choose_many", None) or (None, None)
        self._on_decided = getattr(policy, "on_decided", None)
        self._on_settled = getattr(policy, "on_settled", None)

    def decide(self, request: Request, now: float, tried: frozenset[str] = NOBODY) -> Decision | Reason:
        """Choose a replica and reserve it. `tried` names replicas that must not be chosen again."""
        pool = self._pool(request, tried, now)
        if isinstance(pool, Reason):
            return pool
        if self._choose_few is not None and pool.size <= FEW and not self.index.observed.slow:
            hits = self._few_hits(request, pool, now)
            index = self._choose_few(request, hits, pool.cells, pool.adapter_resident)
            return Reason.EXCLUDED if index < 0 else self._reserve(request, pool, index, hits[index], max(hits), now)
        if self._choose_many is not None and not self.index.observed.slow:
            return self._among_many(self._choose_many, request, pool, now)
        candidates = self.candidates(request, pool, now)
        index = self.policy.choose(request, candidates, now, self._rng)
        if index < 0:
            return Reason.EXCLUDED
        fetch = 0.0 if candidates.fetch_seconds is None else candidates.fetch_seconds.item(index)
        held = candidates.hit_tokens
        decision = self._reserve(request, pool, index, held.item(index), held.item(int(held.argmax())), now, fetch)
        if self._on_decided is not None:
            self._on_decided(request, candidates, index, now)
        return decision

    def _among_many(self, choose: ChooseMany, request: Request, pool: Pool, now: float) -> Decision | Reason:
        """A built-in sum reads what the fleet has derived of each replica, not its columns."""
        self._advance(now)
        standings = self.fleet.standings
        self._make_room(standings[0].size)
        hits = self._hits(request)
        if pool.size != hits.size:
            hits, standings = pool.among(hits), [pool.among(column) for column in standings]
        index = choose(request, hits, standings, pool.adapter_resident, lambda: pool.among(self.fleet.table))
        if index < 0:
            return Reason.EXCLUDED
        return self._reserve(request, pool, index, hits.item(index), hits.item(hits.argmax()), now)

    def _hits(self, request: Request) -> Floats:
        """Tokens that each row is believed to hold on its GPU; good until the next look."""
        keys, block, tokens = request.keys, request.block_tokens, request.tokens
        most = int((tokens - 1) // block) if tokens > 0 else 0
        self.index.lookup(keys if len(keys) <= most else keys[:most], self._held, unit=block)
        return self._held

    def _make_room(self, rows: int) -> None:
        if self._held.size != rows:
            self._held, self._reach = np.zeros(rows), np.zeros(rows)

    def at(self, request: Request, replica: Replica, now: float) -> Decision:
        """Reserve at a given replica, for requests that must go there (a stored response's id)."""
        pool = Pool((replica,), "")
        hit = self._few_hits(request, pool, now)[0]
        decision = self._reserve(request, pool, 0, hit, hit, now)
        if self._on_decided is not None:
            self._on_decided(request, self.candidates(request, pool, now), 0, now)
        return decision

    def settle(
        self, request: Request, decision: Decision, now: float, *, completed: bool, output_tokens: int = 0
    ) -> None:
        """The request is over at this replica, however it ended."""
        if self.ledger.settle(decision.lease, now, completed=completed, output_tokens=output_tokens):
            if output_tokens and completed and decision.replica.state is not State.GONE:
                self.estimate.output(decision.replica, output_tokens)
            if self._on_settled is not None:
                self._on_settled(request.id, decision.replica.name, now)

    def candidates(self, request: Request, pool: Pool, now: float) -> Candidates:
        """What the policy may look at: the pool's columns, and what each replica is believed to hold of the prompt."""
        fleet = self.fleet
        self._advance(now)
        table = fleet.table
        self._make_room(table.shape[1])
        self.index.lookup(request.keys, self._held)
        held = self._held
        fetch: Floats | None = None
        if self.index.observed.slow and request.keys:
            fetch = self._fetch(request)
            held = self._reach
        fetch = None if fetch is None else pool.among(fetch)
        hits = pool.among(held) * request.block_tokens
        most = _most(request)
        if len(request.keys) * request.block_tokens > most:
            np.minimum(hits, most, out=hits)
        table = pool.among(table)
        return Candidates(pool.names, table, hits, request.tokens, pool.labels, pool.adapter_resident, fetch)

    def _fetch(self, request: Request) -> Floats:
        """Seconds per row to bring back what lies on slower mediums; `_reach` is set to what is held at all.

        A block beyond the GPU's depth is priced as on the CPU where the CPU's depth reaches it, else as on disk.
        """
        depth = self._held
        seconds: Floats = np.zeros(depth.shape)
        for medium in (Medium.CPU, Medium.DISK):
            self.index.lookup(request.keys, self._reach, medium)
            seconds += (self._reach - depth) * (self._fetch_seconds[medium] * request.block_tokens)
            depth = self._reach.copy()
        return seconds

    def _advance(self, now: float) -> None:
        self.ledger.advance(now)
        self.others.advance(now)
        self.occupancy.lapse(now)
        self.fleet.advance(now)

    def _few_hits(self, request: Request, pool: Pool, now: float) -> list[float]:
        """Tokens that each replica of a small pool is believed to hold, without numpy."""
        self._advance(now)
        hits = self.index.depths(request.keys, pool.row_list)
        block, most = request.block_tokens, _most(request)
        return [held * block if held * block < most else most for held in hits]

    def pool(self, request: Request, now: float) -> Pool | Reason:
        """The ready replicas that serve the request's model."""
        return self._pool(request, NOBODY, now)

    def drop(self, replica: Replica) -> None:
        """The replica's engine restarted or left: its cache and what was learnt of its speed are gone."""
        replica.epoch += 1
        self.occupancy.drop(replica.row)
        self.estimate.forget(replica)
        self.fleet.weigh(replica, 0.0, 0.0)

    # --- what KV events tell ---

    def sourced(self, replica: Replica, source: Source, now: float) -> None:
        """From here on this is where the knowledge of its cache comes from."""
        if source is not replica.source:
            replica.source = source
            self.occupancy.linger(replica.row, LINGER_SECONDS if source is Source.EXACT else math.inf, now)

    def cleared(self, replica: Replica) -> None:
        """Its cache was reset: what no running request holds is gone. What was observed is the caller's to clear."""
        self.occupancy.idle(replica.row)
        self.occupancy.expect_again(replica.row)

    def forgotten(self, replica: Replica) -> None:
        """What was observed there was cleared without the cache being so: what runs is expected there again."""
        self.occupancy.expect_again(replica.row)

    def stored(self, replica: Replica, keys: Iterable[int], now: float, *, timely: bool = True) -> None:
        """KV events told of these blocks just now: prompts that end with one of them are computed.

        `timely`: they came from the engine itself, so when they came says how fast it is.
        """
        if self.ledger.awaits(replica.row) or self.others.awaits(replica.row):
            known = frozenset(keys)
            self.ledger.stored(replica.row, known, now, timely=timely)
            self.others.stored(replica.row, known, now, timely=False)

    def reported(self, decision: Decision, cached_tokens: int, prompt_tokens: int) -> None:
        """The engine's own count for this request. Where events tell all, nothing is to be learnt from it."""
        if decision.replica.source is not Source.EXACT:
            self.occupancy.reported(decision.lease.pin, cached_tokens, prompt_tokens)

    # --- what other routers tell ---

    def foreign(self, request: Request, replica: Replica, hit: float, predicted: float, now: float) -> Lease:
        """Another router has sent this request there, believing in `hit` tokens; settle the lease in `others`."""
        lease = self._lease(request, replica, hit, 0.0, 0, now)
        self.others.open(lease, predicted, request)
        return lease

    def _pool(self, request: Request, tried: frozenset[str], now: float) -> Pool | Reason:
        name = request.adapter or request.model
        pool = self.fleet.pool(name) if name else self.fleet.everyone()
        if pool is None:
            # One that has just been listed may serve it; one that has not come up for long is no reason to wait.
            unsure = any(
                r.state is State.JOINING and not r.spec.models and now - r.since < PATIENCE_SECONDS for r in self.fleet
            )
            return Reason.NOT_READY if unsure else Reason.UNKNOWN_MODEL
        if tried:
            pool = pool.without(tried)
            return pool if pool.size else Reason.ALL_TRIED
        return pool if pool.size else Reason.NOT_READY

    def _reserve(
        self, request: Request, pool: Pool, index: int, hit: float, best: float, now: float, fetch: float = 0.0
    ) -> Decision:
        replica = pool.replicas[index]
        resident = None if pool.adapter_resident is None else bool(pool.adapter_resident[index])
        start = start_of_row(request, hit, replica.cells, resident) + fetch
        predicted = start + replica.cells[_BASE]
        known = 0 if fetch else int(hit / request.block_tokens + 0.5)  # hits are whole blocks
        # A prompt that was not read says nothing of the replica's speed.
        lease = self._lease(request, replica, hit, start / replica.slow if request.tokens else 0.0, known, now)
        self.ledger.open(lease, predicted, request)
        return Decision(replica, lease, hit, best, predicted)

    def _lease(self, request: Request, replica: Replica, hit: float, work: float, known: int, now: float) -> Lease:
        miss = request.tokens - hit
        if miss < 1.0:  # the engine computes the end of a full hit again
            miss = 1.0
        pin = self.occupancy.reserve(replica.row, request.keys, request.block_tokens, request.tokens, known)
        quadratic = miss * (hit + 0.5 * miss)
        return Lease(replica, replica.epoch, miss, quadratic, work, request.sequences, request.stream, pin, now)


def _most(request: Request) -> float:
    """The most tokens that an engine can find of a prompt: whole blocks of all but its last token, which it computes
    to have something to go on from [tokens]."""
    block, tokens = request.block_tokens, request.tokens
    return (tokens - 1) // block * block if tokens > 0 else 0.0
