"""The cheap histogram."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.control.histogram import Histogram


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 1000.0)))
def test_buckets_count_values_at_most_their_bound(values: list[float]) -> None:
    """As Prometheus defines `le`; the last bucket holds all."""
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    expected = [sum(value <= bound for value in values) for bound in histogram.bounds]
    assert histogram.cumulative() == [*expected, len(values)]
    assert histogram.count == len(values)
    assert abs(histogram.total - sum(values)) <= 1e-6 * (1.0 + sum(values))


def test_quantiles_are_bucket_bounds() -> None:
    """The median of three values is the bound above the middle one."""
    histogram = Histogram((1.0, 2.0, 4.0))
    assert histogram.quantile(0.5) is None
    for value in (0.5, 1.5, 9.0):
        histogram.observe(value)
    assert (histogram.quantile(0.1), histogram.quantile(0.5), histogram.quantile(0.99)) == (1.0, 2.0, None)
