"""`session-hash`: a consistent-hash ring on the client's session key, as production-stack and SMG have it."""

from __future__ import annotations

import numpy as np
import xxhash

from kvroute.scorers.baselines.ring import VIRTUAL_NODES, Rings
from kvroute.scorers.contract import Candidates, Request


class SessionHash:
    """Requests of one session go to one replica; one without a session key goes by its prompt's beginning."""

    __slots__ = ("_rings",)

    def __init__(self, *, virtual_nodes: int = VIRTUAL_NODES) -> None:
        self._rings = Rings(virtual_nodes)

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the session's replica."""
        session = request.session
        # JSON allows lone surrogates, which UTF-8 does not.
        key = request.anchor if session is None else xxhash.xxh3_64_intdigest(session.encode(errors="surrogatepass"))
        return self._rings.of(candidates.names).owner(key)
