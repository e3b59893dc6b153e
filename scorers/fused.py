"""The built-in scorers' weighted sum in one go: what the separate ones give, at a tenth of their cost."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from kvroute.scorers.congestion import BUSY_CAP, FULL_SHARE
from kvroute.scorers.contract import Candidates, Column, Floats, Request, Role

INF = float("inf")
PREFILL_ONLY = float(Role.PREFILL)
ROLE = int(Column.ROLE)
# numpy multiplies by an array without dimensions twice as fast as by a Python float.
HALF, ONE, CAP, FULL = np.array(0.5), np.array(1.0), np.array(BUSY_CAP), np.array(FULL_SHARE)


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
        """The sum in few numpy operations: cheapest for many replicas. Shape (n,) [seconds]."""
        table = candidates.table
        (
            queued, quadratic, outside, per_token, per_quadratic, requests, decoding, busy, active, cached, capacity,
            slots,
        ) = table[:12]  # fmt: skip
        hit = candidates.hit_tokens
        miss = candidates.tokens - hit
        np.maximum(miss, ONE, out=miss)
        factor = np.minimum(busy, CAP)
        factor /= ONE - factor
        factor += cached >= FULL * capacity
        if self.congestion != 1.0:
            factor *= self.congestion
        factor += self.prefill
        factor += self.interference * decoding
        total = HALF * miss
        total += hit
        total *= per_quadratic
        total += per_token
        total *= miss
        total *= factor
        if candidates.fetch_seconds is not None and self.prefill:
            total += self.prefill * candidates.fetch_seconds
        if self.queue:
            ahead = queued * per_token
            ahead += quadratic * per_quadratic
            ahead += outside
            total += ahead if self.queue == 1.0 else self.queue * ahead
        if self.wait:
            lacking = active - capacity
            over = requests - slots
            # Whether anybody can lack room or slots at all: with a miss of the whole prompt.
            if (
                lacking[lacking.argmax()] + max(candidates.tokens, 1) > 0.0
                or over[over.argmax()] + request.sequences > 0.0
            ):
                total += self._wait(table, lacking + miss, over + request.sequences)
        if self.adapter and candidates.adapter_resident is not None:
            total += self.adapter * np.where(candidates.adapter_resident > 0.0, 0.0, table[Column.ADAPTER_SECONDS])
        if self.role:
            roles = table[ROLE]
            if roles[roles.argmax()]:
                total[roles == PREFILL_ONLY] = INF
        return total

    def _wait(self, table: Floats, lacking: Floats, over: Floats) -> Floats:
        np.maximum(lacking, 0.0, out=lacking)
        np.maximum(over, 0.0, out=over)
        share = np.maximum(lacking / np.maximum(table[Column.ACTIVE_TOKENS], 1.0), over / table[Column.SLOTS])
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
