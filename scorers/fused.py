"""The built-in scorers' weighted sum in one go: what the separate ones give, at a tenth of their cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from kvroute.scorers.congestion import BUSY_CAP, FULL_SHARE
from kvroute.scorers.contract import Candidates, Column, Floats, Request, Role

INF = float("inf")
PREFILL_ONLY = float(Role.PREFILL)
# Plain ints: an enum member costs more to use as an index than the addition it is for.
_QUEUED, _QUADRATIC, _OUTSIDE = int(Column.QUEUED_TOKENS), int(Column.QUEUED_QUADRATIC), int(Column.OUTSIDE_SECONDS)
_PER_TOKEN, _PER_QUADRATIC = int(Column.SECONDS_PER_TOKEN), int(Column.SECONDS_PER_QUADRATIC)
_REQUESTS, _DECODING, _BUSY = int(Column.REQUESTS), int(Column.DECODING), int(Column.BUSY)
_ACTIVE, _CACHED, _CAPACITY = int(Column.ACTIVE_TOKENS), int(Column.CACHED_TOKENS), int(Column.CAPACITY_TOKENS)
_SLOTS, _ROLE = int(Column.SLOTS), int(Column.ROLE)
# numpy takes an array without dimensions twice as fast as a Python float.
_HALF, _ONE, _BUSY_CAP, _FULL_SHARE = np.array(0.5), np.array(1.0), np.array(BUSY_CAP), np.array(FULL_SHARE)

Table: TypeAlias = Callable[[], Floats]
"""Gives `Candidates.table`."""


class FusedSum(msgspec.Struct, frozen=True, gc=False):
    """`queue + wait + T * (1/(1-rho) + full + share*B) + adapter + role`, each part with its weight.

    T stands behind three scorers, so with weights the bracket is
    `prefill + congestion * (rho/(1-rho) + full) + interference * B`, `interference` being weight times share.
    """

    queue: float = 0.0
    wait: float = 0.0
    prefill: float = 0.0
    congestion: float = 0.0
    interference: float = 0.0
    adapter: float = 0.0
    role: bool = False

    def of_rows(
        self, request: Request, tokens: int, hits: list[float], rows: list[list[float]], resident: Floats | None
    ) -> list[float]:
        """The sum as a loop: cheapest for 16 replicas or fewer [seconds].

        For candidates with nothing to fetch from slower mediums. `hits` and `rows` are `candidates.hit_tokens` and
        `candidates.table.T` as lists: one row for each replica.
        """
        w_queue, w_wait, w_prefill = self.queue, self.wait, self.prefill
        w_congestion, w_interference, role_counts = self.congestion, self.interference, self.role
        sequences = request.sequences
        totals = []
        for hit, (
            queued, quadratic, outside, per_token, per_quadratic, requests, decoding, busy, active, cached, capacity,
            slots, output, step, _, role, _, _,
        ) in zip(hits, rows, strict=True):  # fmt: skip
            miss = tokens - hit
            if miss < 1.0:
                miss = 1.0
            rho = busy if busy < BUSY_CAP else BUSY_CAP
            others = rho / (1.0 - rho)
            if cached >= FULL_SHARE * capacity:
                others += 1.0
            total = miss * (per_token + per_quadratic * (hit + 0.5 * miss)) * (
                w_prefill + w_congestion * others + w_interference * decoding
            ) + w_queue * (queued * per_token + quadratic * per_quadratic + outside)
            lacking = active + miss - capacity
            over = requests + sequences - slots
            if lacking > 0.0 or over > 0.0:
                total += w_wait * max(lacking / max(active, 1.0), over / slots if over > 0.0 else 0.0) * output * step
            totals.append(INF if role == PREFILL_ONLY and role_counts else total)
        if resident is not None and self.adapter:
            self._add_adapter(totals, rows, resident.tolist())
        return totals

    def _add_adapter(self, totals: list[float], rows: list[list[float]], resident: Sequence[float]) -> None:
        for index, is_resident in enumerate(resident):
            if not is_resident > 0.0:
                totals[index] += self.adapter * rows[index][Column.ADAPTER_SECONDS]

    def of_columns(self, request: Request, candidates: Candidates) -> Floats:
        """The sum over the columns of a table. Shape (n,) [seconds]."""
        table, hits = candidates.table, candidates.hit_tokens
        per_token, per_quadratic = table[_PER_TOKEN], table[_PER_QUADRATIC]
        miss = np.array(float(candidates.tokens)) - hits
        np.maximum(miss, _ONE, out=miss)
        total = _HALF * miss
        total += hits
        total *= per_quadratic
        total += per_token
        total *= miss
        total *= self._factor(table)
        if candidates.fetch_seconds is not None and self.prefill:
            total += self.prefill * candidates.fetch_seconds
        if self.queue:
            ahead = table[_QUEUED] * per_token
            ahead += table[_QUADRATIC] * per_quadratic
            ahead += table[_OUTSIDE]
            total += np.array(self.queue) * ahead
        self._add_rare(total, request, miss, candidates.adapter_resident, table)
        return total

    def _factor(self, table: Floats) -> Floats:
        """What a second of this request's prefill counts at each replica."""
        rho = np.minimum(table[_BUSY], _BUSY_CAP)
        crowded: Floats = rho / (_ONE - rho)
        crowded += table[_CACHED] >= _FULL_SHARE * table[_CAPACITY]
        crowded *= np.array(self.congestion)
        crowded += np.array(self.prefill)
        crowded += np.array(self.interference) * table[_DECODING]
        return crowded

    def _add_rare(self, total: Floats, request: Request, miss: Floats, resident: Floats | None, table: Floats) -> None:
        """What most candidates cost nothing by: waiting for room, loading an adapter, the wrong role."""
        waiting = self._wait(table, miss, request.sequences) if self.wait else None
        if waiting is not None:
            total += waiting
        if self.adapter and resident is not None:
            total += self.adapter * np.where(resident > 0.0, 0.0, table[Column.ADAPTER_SECONDS])
        if self.role:
            total[table[_ROLE] == PREFILL_ONLY] = INF

    def standing_of(self, row: Sequence[float]) -> tuple[float, float, float, float, float]:
        """`Standing` of one replica, from its column of the table."""
        (
            queued, quadratic, outside, per_token, per_quadratic, requests, decoding, busy, active, cached, capacity,
            slots, _, _, _, role, chosen, _,
        ) = row  # fmt: skip
        rho = busy if busy < BUSY_CAP else BUSY_CAP
        crowded = rho / (1.0 - rho)
        if cached >= FULL_SHARE * capacity:
            crowded += 1.0
        factor = self.prefill + self.congestion * crowded + self.interference * decoding
        return (
            self.queue * (queued * per_token + quadratic * per_quadratic + outside),
            per_token * factor,
            0.5 * per_quadratic * factor,
            capacity - active if requests + 1.0 <= slots and not role else -INF,
            chosen,
        )

    def of_standings(
        self, request: Request, hits: Floats, standings: Sequence[Floats], resident: Floats | None, table: Table
    ) -> Floats:
        """The sum from what was derived before: cheapest for many replicas. Shape (n,) [seconds].

        For candidates with nothing to fetch from slower mediums, whose hits leave a token of any prompt to compute.
        `standings` are `standing_of` as columns; `table` gives the table, which most decisions do without.
        """
        ahead, linear, quadratic, slack, _ = standings
        tokens = float(request.tokens) if request.tokens > 0 else 1.0
        prompt = np.array(tokens)  # numpy takes an array without dimensions twice as fast as a Python float
        miss = prompt - hits
        total = prompt + hits
        total *= quadratic
        total += linear
        total *= miss
        total += ahead
        # Whether anybody may lack room or a slot, with a miss of the whole prompt, or cannot run this phase.
        if slack.item(slack.argmin()) < tokens or request.sequences > 1 or resident is not None:
            self._add_rare(total, request, miss, resident, table())
        return total

    def _wait(self, table: Floats, miss: Floats, sequences: int) -> Floats | None:
        """Seconds until there is room and a slot; None where nobody waits, as is usual."""
        active, slots = table[_ACTIVE], table[_SLOTS]
        lacking = active + miss
        lacking -= table[_CAPACITY]
        over = table[_REQUESTS] + np.array(float(sequences))
        over -= slots
        if lacking.item(lacking.argmax()) <= 0.0 and over.item(over.argmax()) <= 0.0:
            return None
        share = np.maximum(np.maximum(lacking, 0.0) / np.maximum(active, 1.0), np.maximum(over, 0.0) / slots)
        waiting: Floats = self.wait * share * table[Column.OUTPUT_TOKENS] * table[Column.STEP_SECONDS]
        return waiting


def start_of_row(request: Request, hit: float, row: list[float], resident: bool | None) -> float:
    """The built-in start parts at one replica, unweighted: queue + wait + prefill + adapter [seconds].

    `hit` is what it holds of the prompt [tokens], `row` its column of the table, `resident` whether the request's
    adapter is loaded (None: it names none).
    """
    (
        queued, quadratic, outside, per_token, per_quadratic, requests, _, _, active, _, capacity, slots, output, step,
        loading, _, _, _,
    ) = row  # fmt: skip
    miss = request.tokens - hit
    if miss < 1.0:
        miss = 1.0
    start = (queued + miss) * per_token + (quadratic + miss * (hit + 0.5 * miss)) * per_quadratic + outside
    lacking = active + miss - capacity
    over = requests + request.sequences - slots
    if lacking > 0.0 or over > 0.0:
        start += max(lacking / max(active, 1.0), over / slots if over > 0.0 else 0.0) * output * step
    return start + loading if resident is False else start


def predicted_start(request: Request, candidates: Candidates, index: int) -> float:
    """Seconds until the first token at one candidate, by the built-in start parts: queue, wait, prefill, adapter.

    The same whatever policy chose it. Leaves out BASE_SECONDS, which is alike wherever the request goes.
    """
    resident = candidates.adapter_resident
    start = start_of_row(
        request,
        candidates.hit_tokens.item(index),
        candidates.table[:, index].tolist(),
        None if resident is None else bool(resident[index] > 0.0),
    )
    return start if candidates.fetch_seconds is None else start + candidates.fetch_seconds.item(index)
