"""`adapter`: loading the request's LoRA adapter."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Floats, Part, Request


class Adapter:
    """Seconds to load the LoRA adapter where it is not resident; nothing for a request without one.

    Formula: the `adapter` row of docs/scorers.md.
    """

    __slots__ = ()
    part: Part = "start"

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """The replica's adapter load time, or 0 [seconds]."""
        resident = candidates.adapter_resident
        if resident is None:
            return np.zeros(len(candidates))
        return np.where(resident > 0.0, 0.0, candidates.table[Column.ADAPTER_SECONDS])
