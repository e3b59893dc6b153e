"""The default policy `latency`, and `goodput`: the built-in scorers, added up."""

from __future__ import annotations

from kvroute.scorers.adapter import Adapter
from kvroute.scorers.congestion import Congestion
from kvroute.scorers.interference import GOODPUT_SHARE, LATENCY_SHARE, Interference
from kvroute.scorers.pipeline import Pipeline, Weighted
from kvroute.scorers.prefill import Prefill
from kvroute.scorers.queue import Queue
from kvroute.scorers.role import RoleFilter
from kvroute.scorers.wait import Wait


def latency(
    *,
    queue: float = 1.0,
    wait: float = 1.0,
    prefill: float = 1.0,
    congestion: float = 1.0,
    interference: float = 1.0,
    adapter: float = 1.0,
    role: float = 1.0,
    share: float = LATENCY_SHARE,
) -> Pipeline:
    """`queue + wait + T * (1/(1-rho) + full + 0.05*B)`, plus adapter loads: soonest first token, others considered.

    The arguments are the scorers' weights, and the `share` of `interference`. Source: docs/scorers.md.
    """
    return Pipeline(
        (
            Weighted(Queue(), queue, "queue"),
            Weighted(Wait(), wait, "wait"),
            Weighted(Prefill(), prefill, "prefill"),
            Weighted(Congestion(), congestion, "congestion"),
            Weighted(Interference(share=share), interference, "interference"),
            Weighted(Adapter(), adapter, "adapter"),
            Weighted(RoleFilter(), role, "role"),
        )
    )


def goodput(
    *,
    queue: float = 1.0,
    wait: float = 1.0,
    prefill: float = 1.0,
    congestion: float = 1.0,
    interference: float = 1.0,
    adapter: float = 1.0,
    role: float = 1.0,
) -> Pipeline:
    """`latency` with decoding requests counted in full: best end-to-end time under overload, worse p99 TTFT."""
    return latency(
        queue=queue,
        wait=wait,
        prefill=prefill,
        congestion=congestion,
        interference=interference,
        adapter=adapter,
        role=role,
        share=GOODPUT_SHARE,
    )
