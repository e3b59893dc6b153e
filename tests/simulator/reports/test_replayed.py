"""Figures of the same requests, measured and simulated."""

from __future__ import annotations

import math

import pytest

from kvroute.simulator.reports.replayed import differences, measured, simulated, trust
from kvroute.simulator.runs.outcome import Gaps, Outcome, Requests
from tests.simulator.workloads.logs import request

RECORDS = [
    request(1.0, range(10), cached_tokens=80, hit_tokens=84.0),
    request(2.0, range(10), first=None),
    request(3.0, outcome="aborted"),
    request(4.0, outcome="refused", replica="", status=0),
]


def outcome(*rows: tuple[float, float, float]) -> Outcome:
    """A run with these (sent, first token, last token); NaN: never."""
    requests = Requests()
    for at, first, ended in rows:
        requests.add(at, 168, 10)
        row = len(requests) - 1
        requests.first[row], requests.ended[row], requests.cached[row] = first, ended, 42
        requests.replica[row] = 0
    return Outcome("w", 16, ["a", "b"], requests, [], [], Gaps(), 0)


def test_what_is_measured() -> None:
    """Times of what was answered, first tokens of streams, shares of what was told."""
    found = measured(RECORDS)
    assert found.requests == 2
    assert found.ttft is not None
    assert found.e2e is not None
    assert found.tpot is not None
    assert (found.ttft.mean, found.e2e.mean, found.tpot.mean) == pytest.approx((0.1, 0.5, 0.4 / 9))
    assert found.cached_token_rate == pytest.approx(80 / 168)
    assert found.believed_token_rate == pytest.approx(84 / 336)
    assert found.busiest == 1.0


def test_the_same_requests_are_looked_at() -> None:
    """Whatever else the run did, and in whatever order."""
    rows = outcome((0.0, 0.2, 1.0), (1.0, 1.4, 1.8), (2.0, 2.9, 9.0), (3.0, math.nan, math.nan))
    found = simulated(RECORDS, rows, ["1", "0", "3", "2"])
    assert found.requests == 2
    assert found.ttft is not None
    assert found.e2e is not None
    assert (found.ttft.mean, found.e2e.mean) == pytest.approx((0.4, 0.9))
    assert found.cached_token_rate == pytest.approx(42 / 168)
    assert found.busiest == 2.0


def test_how_far_they_are_apart() -> None:
    """Times as shares of the first, shares in points."""
    real = measured(RECORDS)
    near = simulated(RECORDS, outcome((1.0, 1.1, 1.55), (2.0, 2.1, 2.55)), ["0", "1"])
    found = differences(real, near)
    assert found["E2E mean"] == pytest.approx(0.1)
    assert found["cached"] == pytest.approx(42 / 168 - 80 / 168)
    assert "calibrate" not in trust(real, near).plain
    far = simulated(RECORDS, outcome((1.0, 2.0, 3.0), (2.0, 3.0, 4.0)), ["0", "1"])
    assert "kvroute calibrate" in trust(real, far).plain


def test_a_log_without_times() -> None:
    """Nothing is claimed."""
    nothing = measured([request(1.0, outcome="failed")])
    assert (nothing.ttft, nothing.e2e, nothing.cached_token_rate) == (None, None, None)
    assert differences(nothing, nothing)["TTFT mean"] is None
    assert "no times" in trust(nothing, nothing).plain


def test_assumed_outputs_have_no_pace() -> None:
    """Where the log tells no output tokens nothing is measured of them, E2E is not compared, and it is said why."""
    real = measured(RECORDS, [False] * len(RECORDS))
    near = simulated(RECORDS, outcome((1.0, 1.1, 1.55), (2.0, 2.1, 2.55)), ["0", "1"])
    assert real.tpot is None
    found = differences(real, near)
    assert (found["TPOT mean"], found["E2E mean"]) == (None, None)
    assert found["TTFT mean"] == pytest.approx(0.0)
    said = trust(real, near).plain
    assert "stream_options.include_usage" in said
    assert "--enable-force-include-usage" in said
    assert "calibrate" not in said
