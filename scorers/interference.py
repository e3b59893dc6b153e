"""`interference`: what a prefill costs the requests that are decoding."""

from __future__ import annotations

from kvroute.scorers.contract import Candidates, Column, Floats, Part, Request

LATENCY_SHARE = 0.05
"""The share that gives the best first-token times; 0.03 to 0.1 are as good."""
GOODPUT_SHARE = 1.0
"""Every decoding request pays in full: best end-to-end time and goodput under overload, worse p99 TTFT."""


class Interference:
    """`T * share * requests decoding there`: each of them is held up by this prefill's steps.

    `share` says how much of the delay counts. Formula: the `interference` row of docs/scorers.md.
    """

    __slots__ = ("share",)
    part: Part = "cost"

    def __init__(self, *, share: float = LATENCY_SHARE) -> None:
        if not 0.0 <= share < float("inf"):
            raise ValueError(f"share must be a number >= 0, not {share}")
        self.share = share

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """Seconds that fall on the requests decoding there."""
        delayed: Floats = self.share * candidates.column(Column.DECODING)
        return candidates.prefill_seconds * delayed
