"""`queue`: the prefill that stands before this request."""

from __future__ import annotations

from kvroute.scorers.contract import Candidates, Floats, Part, Request


class Queue:
    """Predicted prefill seconds of all requests sent to a replica that have no first output yet, at its current rate.

    Includes what `/metrics` shows of traffic that is not ours. Formula: the `queue` row of docs/scorers.md.
    """

    __slots__ = ()
    part: Part = "start"

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """`queued tokens * s/token + queued quadratic * c4 + outside seconds` [seconds]."""
        return candidates.queued_seconds
