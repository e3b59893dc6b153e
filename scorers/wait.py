"""`wait`: until there is KV room and a slot for this request."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Floats, Part, Request


class Wait:
    """Seconds until running requests have given back the KV room or the slots that this request lacks.

    `max(tokens lacking / tokens in use, requests over the limit / limit) * mean output length * step time`: a replica
    returns all it holds within about one mean output, so a share of it returns within that share of the time.
    Unknown capacities are inf and cost nothing. Formula: the `wait` row of docs/scorers.md.
    """

    __slots__ = ()
    part: Part = "start"

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """Seconds of waiting, 0 where both room and slot are free."""
        table = candidates.table
        active = table[Column.ACTIVE_TOKENS]
        slots = table[Column.SLOTS]
        lacking = np.maximum(active + candidates.miss_tokens - table[Column.CAPACITY_TOKENS], 0.0)
        over = np.maximum(table[Column.REQUESTS] + request.sequences - slots, 0.0)
        share: Floats = np.maximum(lacking / np.maximum(active, 1.0), over / slots)
        share *= table[Column.OUTPUT_TOKENS] * table[Column.STEP_SECONDS]
        return share
