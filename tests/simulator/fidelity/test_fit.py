"""A known step time comes back from a log, from any part of it, and garbage is called so."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from kvroute.simulator.fidelity.fit import Evidence, fit
from kvroute.simulator.fidelity.priors import priors
from kvroute.simulator.fidelity.reproduce import rehearsals
from tests.simulator.fidelity.recorded import TRUTH, recording


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("part", ["all", "even", "early"])
def test_the_truth_comes_back(depth: int, part: str) -> None:
    """All but exact from exact stamps: what a step costs, and how the engine schedules."""
    run = recording(depth=depth)
    count = len(run.requests)
    chosen = {"all": range(count), "even": range(0, count, 2), "early": range(count // 2)}[part]
    found = fit(rehearsals(run), Evidence(run.requests, list(chosen), priors(run)))
    assert found.depth == depth
    assert found.misfit < 0.01
    assert found.step[0] == pytest.approx(TRUTH[0], rel=0.1)
    assert found.step[3] == pytest.approx(TRUTH[3], rel=0.1)


def test_noise_is_told() -> None:
    """With step ends off by some milliseconds the truth lies within four standard errors."""
    run = recording(noise=0.003)
    found = fit(rehearsals(run), Evidence(run.requests, list(range(len(run.requests))), priors(run)))
    for value, error, truth in zip(found.step, found.errors, TRUTH, strict=True):
        assert abs(value - truth) < 4 * error + 0.05 * truth


def test_garbage_is_called_so() -> None:
    """Times that no step time can explain leave a large misfit."""
    run = recording(count=30)
    rng = np.random.default_rng(0)
    wild = [
        msgspec.structs.replace(one, first=one.arrival + float(a), last=one.arrival + float(a + b))
        for one, a, b in zip(run.requests, rng.exponential(5.0, 30), rng.exponential(50.0, 30), strict=True)
    ]
    found = fit(rehearsals(run), Evidence(wild, list(range(len(wild))), priors(run)))
    assert found.misfit > 0.2


def test_only_the_part_is_looked_at() -> None:
    """Times of requests outside of the part change nothing."""
    run = recording()
    part = list(range(0, 100, 2))
    spoilt = [
        one if i % 2 == 0 else msgspec.structs.replace(one, first=one.first + 50.0, last=one.last + 99.0)
        for i, one in enumerate(run.requests)
    ]
    ways = rehearsals(run)
    assert fit(ways, Evidence(run.requests, part, priors(run))) == fit(ways, Evidence(spoilt, part, priors(run)))


def test_a_fit_needs_something() -> None:
    """Nothing to look at is refused."""
    run = recording()
    with pytest.raises(ValueError, match="at least one"):
        fit(rehearsals(run), Evidence(run.requests, [], priors(run)))
