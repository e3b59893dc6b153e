"""Errors are relative, goals are judged, the worst of several trials is kept."""

from __future__ import annotations

import msgspec
import pytest

from kvroute.simulator.fidelity.measures import Times, compare, misfit, percentile, times_of, worst
from kvroute.simulator.fidelity.recording import Timed

REQUESTS = [Timed(str(i), 10, 11, float(i), i + 1.0, i + 3.0, i + 0.25, i + 0.5) for i in range(10)]


def later(factor: float) -> Times:
    """Everything after arrival stretched."""
    return Times(
        [one.arrival + 0.5 * factor for one in REQUESTS],
        [one.arrival + 1.0 * factor for one in REQUESTS],
        [one.arrival + 3.0 * factor for one in REQUESTS],
    )


def test_the_same_times_have_no_error() -> None:
    """A run compared with itself meets every goal."""
    found = compare(REQUESTS, times_of(REQUESTS), range(10))
    assert all(one.error == 0.0 and one.met is not False for one in found.values())
    assert found["tpot_mean"].real == pytest.approx(0.2)
    assert found["ttft_p90"].real == pytest.approx(1.0)
    assert found["throughput_requests"].real == pytest.approx(10 / 12)


@pytest.mark.parametrize(("factor", "missed"), [(1.04, False), (1.06, True)])
def test_goals_are_judged(factor: float, missed: bool) -> None:
    """6 % too slow misses the goals of 5 %, 4 % does not."""
    found = compare(REQUESTS, later(factor), range(10))
    assert found["e2e_mean"].error == pytest.approx(factor - 1.0)
    assert (found["e2e_mean"].met is False) == missed
    assert found["ttft_mean"].met


def test_only_the_judged_count() -> None:
    """Requests that are not judged change nothing."""
    spoilt = [*REQUESTS[:9], msgspec.structs.replace(REQUESTS[9], first=99.0, last=100.0)]
    assert compare(spoilt, times_of(REQUESTS), range(9)) == compare(REQUESTS, times_of(REQUESTS), range(9))


def test_the_worst_is_kept() -> None:
    """Of two trials each measure's larger error."""
    good, bad = compare(REQUESTS, later(1.01), range(10)), compare(REQUESTS, later(0.9), range(10))
    assert worst([good, bad])["e2e_mean"] == bad["e2e_mean"]


def test_misfit_is_of_single_requests() -> None:
    """Errors that cancel in a mean do not cancel here."""
    times = later(1.0)
    swapped = Times(times.scheduled, [t + (0.5 if i % 2 else -0.5) for i, t in enumerate(times.first)], times.last)
    assert compare(REQUESTS, swapped, range(10))["ttft_mean"].error == pytest.approx(0.0)
    assert misfit(REQUESTS, swapped, range(10)) > 0.2


def test_percentiles_are_values_that_occur() -> None:
    """The smallest that enough do not exceed."""
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert percentile([1.0], 0.99) == 1.0
