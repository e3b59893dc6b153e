"""`role`: a replica that cannot run this phase must not be chosen."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Floats, Part, Request, Role


class RoleFilter:
    """inf on replicas that only prefill: a request that is served whole needs one that can decode.

    A `decode` replica runs whole requests too (its engine can prefill), so it costs nothing.
    Formula: the `role` row of docs/scorers.md.
    """

    __slots__ = ()
    part: Part = "cost"

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """inf where the role is `prefill`, else 0."""
        return np.where(candidates.table[Column.ROLE] == Role.PREFILL, np.inf, 0.0)
