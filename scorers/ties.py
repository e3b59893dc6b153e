"""Who wins among candidates that cost about the same: learned rates are noisy, and equals must share the work."""

from __future__ import annotations

import math

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Floats

TIE_SECONDS = 0.002
TIE_SHARE = 0.05
"""Candidates within max(2 ms, 5 %) of the best are a tie."""

_FEW = 8
"""Ties up to which a Python loop is quicker than numpy."""
_CHOSEN = int(Column.CHOSEN)


def pick(totals: Floats, candidates: Candidates) -> int:
    """Index of the winner: smallest total; in a tie the longest cached prefix, then the least recently chosen.

    -1 when every total is inf. `totals` has shape (n,) and no NaN [seconds].
    """
    return pick_of_columns(totals, candidates.hit_tokens, candidates.table[_CHOSEN])


def pick_of_columns(totals: Floats, hits: Floats, chosen: Floats) -> int:
    """`pick` for columns: `hits` are the candidates' `hit_tokens`, `chosen` their `Column.CHOSEN`."""
    best = totals.item(totals.argmin())
    if best == math.inf:
        return -1
    share = TIE_SHARE * best
    # numpy takes an array without dimensions twice as fast as a Python float.
    tied = (totals <= np.array(best + (share if share > TIE_SECONDS else TIE_SECONDS))).nonzero()[0]
    count = tied.size
    if count == 1:
        return int(tied.item())
    if count > _FEW:
        held = hits[tied]
        tied = tied[held == held[held.argmax()]]
        return int(tied[chosen[tied].argmin()])
    winner, longest, oldest = -1, -1.0, math.inf
    for index, hit, turn in zip(tied.tolist(), hits[tied].tolist(), chosen[tied].tolist(), strict=True):
        if hit > longest or (hit == longest and turn < oldest):
            winner, longest, oldest = index, hit, turn
    return winner


def pick_of_rows(totals: list[float], hits: list[float], rows: list[list[float]]) -> int:
    """`pick` for lists: `rows[i]` is candidate i's column of the table."""
    best = min(totals)
    if best == math.inf:
        return -1
    limit = best + max(TIE_SECONDS, TIE_SHARE * best)
    winner, longest, oldest = -1, -1.0, math.inf
    for index, total in enumerate(totals):
        if total <= limit:
            hit, chosen = hits[index], rows[index][_CHOSEN]
            if hit > longest or (hit == longest and chosen < oldest):
                winner, longest, oldest = index, hit, chosen
    return winner


def least_recent(costs: Floats, candidates: Candidates) -> int:
    """Index of the smallest cost; among exact equals the least recently chosen."""
    equal = (costs == costs[costs.argmin()]).nonzero()[0]
    if equal.size == 1:
        return int(equal[0])
    return int(equal[candidates.table[_CHOSEN][equal].argmin()])


def drawn(costs: Floats, rng: np.random.Generator) -> int:
    """Index of the smallest cost; among exact equals a random one."""
    equal = (costs == costs[costs.argmin()]).nonzero()[0]
    return int(equal[0] if equal.size == 1 else equal[rng.integers(equal.size)])
