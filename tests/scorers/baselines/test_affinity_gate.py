"""The policy `affinity-gate`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvroute.scorers.baselines.affinity_gate import AffinityGate
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)
GATE = 18 * 15_928.0
"""Tokens in flight that take 18 s."""


def choose(hits: list[float], queued: list[float], policy: AffinityGate | None = None, **columns: Any) -> int:
    """The choice among so many replicas for a prompt of 1,000 tokens."""
    given = candidates(len(hits), tokens=1000, hit_tokens=hits, queued_tokens=queued, **columns)
    return (policy or AffinityGate()).choose(request(), given, 0.0, RNG)


@pytest.mark.parametrize(("hit", "chosen"), [(800.0, 0), (799.0, 1)])
def test_sticky_begins_at_four_fifths(hit: float, chosen: int) -> None:
    """0.8 is sticky, 0.799 counts as nothing."""
    assert choose([hit, 0.0], [5000, 0]) == chosen


@pytest.mark.parametrize(("more", "chosen"), [(0.0, 0), (1.0, 1)])
def test_the_gate_opens_above_18_seconds(more: float, chosen: int) -> None:
    """Exactly 18 s later the holder still gets it; one token more and all are asked."""
    assert choose([1000.0, 0.0], [100 + GATE + more, 100]) == chosen


def test_the_gate_compares_the_best_of_both() -> None:
    """A second holder that is free keeps the request among the holders."""
    assert choose([1000.0, 0.0, 900.0], [9 * GATE, 0, 50]) == 2


def test_the_least_tokens_win_within_the_holders_and_without_any() -> None:
    """The length of the hit no longer counts once it is enough, nor the request's own miss."""
    assert choose([1000.0, 800.0, 0.0], [30, 20, 10]) == 1
    assert choose([700.0, 100.0, 0.0], [30, 20, 10]) == 2


def test_own_tokens_count_when_asked() -> None:
    """30 + 1 against 20 + 200."""
    assert choose([1000.0, 800.0, 0.0], [30, 20, 10], AffinityGate(own=True)) == 0


def test_where_all_hold_it_there_is_no_gate() -> None:
    """There are no others to be later than."""
    assert choose([1000.0, 1000.0], [9 * GATE, 10 * GATE]) == 0


def test_a_penalty_of_nothing_always_sticks() -> None:
    """0 s means no gate, as in llm-d."""
    assert choose([1000.0, 0.0], [9 * GATE, 0], AffinityGate(max_penalty=0.0)) == 0


def test_equals_take_turns() -> None:
    """The least recently chosen of equals, sticky or not."""
    assert choose([0.0, 0.0, 0.0], [5, 5, 5], chosen=[3, 1, 2]) == 1
    assert choose([900.0, 0.0, 900.0], [5, 5, 5], chosen=[3, 1, 2]) == 2


@pytest.mark.parametrize("options", [{"affinity": 80.0}, {"max_penalty": -1.0}, {"throughput": 0.0}])
def test_nonsense_is_refused(options: dict[str, float]) -> None:
    """Each option says what it must be."""
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        AffinityGate(**options)  # type: ignore[arg-type]
