"""Whether an engine schedules ahead shows in its stamps."""

from __future__ import annotations

import pytest

from kvroute.simulator.fidelity.lookahead import looks_ahead
from tests.simulator.fidelity.recorded import LIMITS, played, timed


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [2.0, 6.0, 12.0])
@pytest.mark.parametrize("depth", [1, 2])
def test_it_is_seen(depth: int, rate: float, seed: int) -> None:
    """At any load, where enough requests tell."""
    stamps = timed(*played(depth=depth, seed=seed, rate=rate))
    assert looks_ahead(stamps, LIMITS) in (depth == 2, None)


def test_too_few_tell_nothing() -> None:
    """Four requests are no evidence."""
    assert looks_ahead(timed(*played(count=4)), LIMITS) is None
