"""Numbers as people read them."""

from __future__ import annotations

import pytest

from kvroute.simulator.reports import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (12.345, "12.3 s"), (1234.5, "1,234 s"), (1.0, "1.00 s"), (0.0456, "45.6 ms"), (0.99999, "1.00 s"),
     (0.00000123, "1.23 us"), (0.1, "100 ms"), (99.96, "100 s")],
)  # fmt: skip
def test_times_have_three_digits_and_a_unit(seconds: float, text: str) -> None:
    """Seconds, milliseconds or microseconds."""
    assert units.time(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (1234, "1,234"), (12345, "12.3 k"), (4.56e6, "4.56 M"), (2e9, "2.00 G")]
)
def test_counts_are_short(value: float, text: str) -> None:
    """Thousands, millions, billions."""
    assert units.count(value) == text


def test_nothing_is_a_dash() -> None:
    """What is no number is not printed as one."""
    assert units.digits(float("nan")) == "-"
    assert units.digits(0.0) == "0"
    assert units.percent(0.1234) == "12.3 %"
