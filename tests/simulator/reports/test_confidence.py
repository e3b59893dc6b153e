"""Means over seeds, and what may be said of differences."""

from __future__ import annotations

import math

import pytest

from kvroute.simulator.reports.confidence import estimate, paired, shown


def test_three_values() -> None:
    """Mean 2, standard error 1/sqrt(3), two degrees of freedom."""
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(4.3027 / math.sqrt(3.0))


def test_one_value_says_nothing_of_the_spread() -> None:
    """So no difference is shown by it, however great."""
    found = paired([100.0], [1.0])
    assert found is not None
    assert found.half_width is None
    assert shown(found) == 0


def test_pairs_show_what_means_hide() -> None:
    """A small difference in each pair is shown although the seeds differ much more."""
    assert shown(paired([10.1, 20.1, 30.11], [10.0, 20.0, 30.0])) == 1
    assert shown(paired([9.9, 19.9, 29.91], [10.0, 20.0, 30.0])) == -1
    assert shown(paired([11.0, 18.0, 33.0], [10.0, 20.0, 30.0])) == 0


def test_what_is_not_a_number_is_left_out() -> None:
    """A run without an answer has no latency."""
    found = paired([math.nan, 3.0, 4.0], [1.0, 2.0, 2.0])
    assert found is not None
    assert (found.mean, found.count) == (1.5, 2)
    assert paired([math.nan], [1.0]) is None
