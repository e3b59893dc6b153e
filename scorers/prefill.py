"""`prefill`: this request's own prefill, T in the other formulas."""

from __future__ import annotations

from kvroute.scorers.contract import Candidates, Floats, Part, Request


class Prefill:
    """Seconds to compute the prompt tokens that the replica does not hold, at the rate it has now.

    Running decodes take part of each step, so the rate is the current one, not the best one; the attention term grows
    with what precedes each token. Formula: the `prefill` row of docs/scorers.md.
    """

    __slots__ = ()
    part: Part = "start"

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """`miss * s/token + c4 * miss * (hit + miss/2) + fetch` [seconds]; a copy: the shared array must not change."""
        if candidates.fetch_seconds is not None:
            return candidates.prefill_seconds + candidates.fetch_seconds
        return candidates.prefill_seconds.copy()
