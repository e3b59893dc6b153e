"""The named sums `latency` and `goodput`."""

from __future__ import annotations

import numpy as np
import pytest

from kvroute.scorers.latency import goodput, latency
from kvroute.scorers.testing import candidates, request, varied

NAMES = ("queue", "wait", "prefill", "congestion", "interference", "adapter", "role")


def test_the_default_formula_by_hand() -> None:
    """queue + wait + T * (1/(1-rho) + full + 0.05*B), by hand."""
    given = candidates(
        1,
        tokens=1000,
        hit_tokens=200,
        seconds_per_token=1e-4,
        seconds_per_quadratic=1e-8,
        queued_tokens=500,
        queued_quadratic=2e5,
        outside_seconds=0.125,
        requests=9,
        slots=8,
        output_tokens=100,
        step_seconds=0.02,
        busy=0.5,
        cached_tokens=99,
        capacity_tokens=100_000,
        decoding=4,
    )
    queue = 500 * 1e-4 + 2e5 * 1e-8 + 0.125
    wait = 2 / 8 * 100 * 0.02
    own = 800 * 1e-4 + 1e-8 * 800 * (200 + 400)
    expected = queue + wait + own * (1 / (1 - 0.5) + 0 + 0.05 * 4)
    assert latency().totals(request(), given, 0.0).tolist() == pytest.approx([expected])
    expected += own * 0.95 * 4
    assert goodput().totals(request(), given, 0.0).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("name", NAMES)
def test_each_weight_is_its_scorers(name: str) -> None:
    """Weight 2 adds a scorer once more, weight 0 removes it and nothing else."""
    given = varied(20, np.random.default_rng(8))
    asked = request(adapter="a")
    ours = latency().breakdown(asked, given, 0.0)[name]
    plain = latency().totals(asked, given, 0.0)
    weights = {name: 2.0}
    np.testing.assert_allclose(latency(**weights).totals(asked, given, 0.0), plain + ours, rtol=1e-9)
    without = latency(**{name: 0.0})
    np.testing.assert_allclose(without.totals(asked, given, 0.0), plain - ours, rtol=1e-9, atol=1e-9)
    assert [one.name for one in without.scorers] == [one for one in NAMES if one != name]


def test_decisions_are_the_same_by_loop_and_by_arrays() -> None:
    """Few and many candidates are computed differently and decided alike."""
    rng = np.random.default_rng(9)
    policy = latency()
    for _ in range(200):
        given = varied(16, rng)
        padded = given.take([*range(16), 15])  # one more, a copy of the last, so that the arrays are used
        few = policy.choose(request(), given, 0.0, rng)
        many = policy.choose(request(), padded, 0.0, rng)
        assert few == min(many, 15)
