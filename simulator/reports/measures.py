"""The figures that runs are compared by: their names, where they stand in a summary, and which way is better."""

from __future__ import annotations

import math

from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.reports.summary import Summary

TIMES = ("ttft", "tpot", "itl", "e2e", "queue")
STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")
HIGHER = (
    "throughput_requests", "throughput_prompt_tokens", "throughput_output_tokens", "cached_token_rate", "goodput",
    "slo_share",
)  # fmt: skip
"""Better when greater."""
LOWER = ("balance_requests", "balance_work", "preemptions", "kv_usage_mean", "kv_usage_peak", "duration_seconds")
"""Better when smaller, as all times are."""
COMPARED = (
    "ttft_mean", "ttft_p50", "ttft_p90", "ttft_p99", "tpot_p50", "tpot_p90", "itl_p99", "e2e_mean", "e2e_p50",
    "e2e_p90", "e2e_p99", "queue_p90", "throughput_requests", "throughput_output_tokens", "cached_token_rate",
    "balance_requests", "balance_work", "preemptions", "kv_usage_mean", "kv_usage_peak",
)  # fmt: skip
"""What comparisons and plans record of each run."""
JUDGED = ("goodput", "slo_share")
"""What they record as well where an SLO is given."""


def check_measure(name: str) -> str:
    """That name.

    Raises:
        SimulatorError: no figure is called so; lists what there is.
    """
    time, _, statistic = name.rpartition("_")
    if name in HIGHER or name in LOWER or (time in TIMES and statistic in STATISTICS):
        return name
    raise SimulatorError(
        f"there is no measure {name!r}; there are times ({', '.join(TIMES)}) with a statistic"
        f" ({', '.join(STATISTICS)}), such as ttft_p90, and: {', '.join(HIGHER + LOWER)}"
    )


def value(summary: Summary, name: str) -> float:
    """One figure of a run, times in seconds; NaN where it has none (no request was answered, no SLO was given)."""
    time, _, statistic = name.rpartition("_")
    if time in TIMES and statistic in STATISTICS:
        distribution = getattr(summary, time)
        found = None if distribution is None else getattr(distribution, statistic)
    else:
        found = getattr(summary, name)
    return math.nan if found is None else float(found)


def better(name: str) -> int:
    """1 where greater is better, -1 where smaller is."""
    return 1 if name in HIGHER else -1
