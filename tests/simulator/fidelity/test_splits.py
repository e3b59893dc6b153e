"""No split judges what it was fitted on."""

from __future__ import annotations

import pytest

from kvroute.simulator.fidelity.splits import splits


@pytest.mark.parametrize("count", [16, 17, 300])
def test_parts_are_apart_and_whole(count: int) -> None:
    """Fitted on and judged on share nothing and are all requests together."""
    for split in splits(count):
        assert not set(split.fit) & set(split.judge)
        assert sorted(split.fit + split.judge) == list(range(count))


def test_both_directions() -> None:
    """What one split fits on another judges."""
    made = splits(20)
    assert [(s.judge, s.fit) for s in made[::2]] == [(s.fit, s.judge) for s in made[1::2]]
