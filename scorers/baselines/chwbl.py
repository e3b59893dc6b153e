"""`chwbl`: consistent hashing with bounded loads on the prompt's beginning, as KubeAI's PrefixHash has it."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.baselines.ring import VIRTUAL_NODES, Rings
from kvroute.scorers.contract import Candidates, Column, Request


class Chwbl:
    """From the anchor on around the ring to the first replica with `n <= bound * (total + 1) / replicas`."""

    __slots__ = ("_bound", "_rings")

    def __init__(self, *, bound: float = 1.25, virtual_nodes: int = VIRTUAL_NODES) -> None:
        if not bound >= 1.0:
            raise ValueError(f"bound must be at least 1, not {bound}")
        self._bound = bound
        self._rings = Rings(virtual_nodes)

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the first replica on the ring that is not overloaded: there is one, for the mean is not above it."""
        requests = candidates.table[Column.REQUESTS].tolist()
        limit = self._bound * (sum(requests) + 1.0) / len(requests)
        ring = self._rings.of(candidates.names)
        return next(index for index in ring.walk(request.anchor) if requests[index] <= limit)
