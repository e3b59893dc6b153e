"""Who wins among equals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.scorers.contract import Candidates
from kvroute.scorers.testing import candidates
from kvroute.scorers.ties import drawn, least_recent, pick, pick_of_rows

INF = float("inf")


def both(totals: list[float], among: Candidates) -> int:
    """What both ways of picking say; they must agree."""
    quick = pick_of_rows(totals, among.hit_tokens.tolist(), among.table.T.tolist())
    assert quick == pick(np.array(totals), among)
    return quick


@pytest.mark.parametrize(
    ("totals", "hits", "chosen", "winner"),
    [
        ([1.0, 0.9, 2.0], [900, 0, 0], [0, 9, 0], 1),  # 11 % apart: no tie
        ([1.0, 0.96, 2.0], [900, 0, 0], [9, 0, 0], 0),  # within 5 %: the longer prefix
        ([0.0019, 0.0, 1.0], [900, 0, 0], [9, 0, 0], 0),  # within 2 ms
        ([0.0021, 0.0, 1.0], [900, 0, 0], [9, 0, 0], 1),  # not within 2 ms
        ([1.0, 1.0, 1.0], [0, 0, 0], [3, 1, 2], 1),  # equal prefixes: the least recently chosen
        ([1.0, 1.0, 1.0], [16, 0, 16], [3, 1, 2], 2),  # the least recently chosen of the longest
        ([INF, 5.0, INF], [900, 0, 900], [0, 9, 0], 1),
        ([INF, INF, INF], [0, 0, 0], [0, 0, 0], -1),
    ],
)
def test_the_tie_rule(totals: list[float], hits: list[float], chosen: list[float], winner: int) -> None:
    """Within max(2 ms, 5 %) the longest prefix wins, then the least recently chosen; all inf is nobody."""
    assert both(totals, candidates(3, hit_tokens=hits, chosen=chosen)) == winner


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.001, 0.01, 0.0101, 0.5, 0.51, INF]), st.sampled_from([0, 16, 32]), st.integers(0, 5)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_both_ways_agree(replicas: list[tuple[float, int, int]]) -> None:
    """The loop and the arrays pick the same candidate, whatever the totals, prefixes and turns."""
    totals, hits, chosen = (list(one) for one in zip(*replicas, strict=True))
    both(totals, candidates(len(replicas), hit_tokens=hits, chosen=chosen))


def test_exact_equals_by_turn_or_by_lot() -> None:
    """The baselines' ties: the least recently chosen, or a fair draw."""
    among = candidates(4, chosen=[5, 4, 1, 0])
    costs = np.array([1.0, 1.0, 1.0, 2.0])
    assert least_recent(costs, among) == 2
    rng = np.random.default_rng(1)
    counts = np.bincount([drawn(costs, rng) for _ in range(3000)], minlength=4)
    assert counts[3] == 0
    assert counts[:3].min() > 900
