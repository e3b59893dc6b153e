"""The share of a cache that is believed in follows what the engine counts, where replies tell nothing."""

from __future__ import annotations

import pytest

from kvroute.router.core.trust import ENOUGH_TOKENS, LEAST, Trust


def compared(trust: Trust, hit_rate: float, silent: int = 4, told: int = 0) -> bool:
    """One comparison: requests believed to be cached by 90 %, and the engine's rate."""
    for _ in range(told):
        trust.told()
    for _ in range(silent):
        trust.predicted(0.9 * ENOUGH_TOKENS, ENOUGH_TOKENS)
    return trust.counted(hit_rate * ENOUGH_TOKENS, ENOUGH_TOKENS)


def test_the_share_falls_with_the_hits_and_grows_back() -> None:
    """Halved at most by a comparison, never below its least, and raised by a twentieth."""
    trust = Trust()
    assert compared(trust, 0.0)
    assert trust.share == 0.5
    assert compared(trust, 0.9)
    assert trust.share == pytest.approx(0.525)
    for _ in range(20):
        compared(trust, 0.0)
    assert trust.share == LEAST


def test_replies_that_tell_take_over_when_they_are_half() -> None:
    """One reply of many that tells changes nothing; where half tell, nothing is set against the totals."""
    trust = Trust()
    compared(trust, 0.0, silent=4, told=3)
    assert trust.share == 0.5
    assert compared(trust, 0.0, silent=4, told=4)
    assert trust.share == pytest.approx(0.525)
    compared(trust, 0.0, silent=4)  # counted anew since the last comparison
    assert trust.share == pytest.approx(0.2625)


def test_where_all_tell_the_share_grows_back() -> None:
    """What was lost before the replies began to tell is not lost for good."""
    trust = Trust()
    compared(trust, 0.0)
    for _ in range(20):
        compared(trust, 0.0, silent=0, told=1)
    assert trust.share == 1.0


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), -1e6])
def test_odd_counts_are_left_out(odd: float) -> None:
    """Neither the engine's page nor a prediction can make the share anything but a share."""
    trust = Trust()
    trust.predicted(odd, ENOUGH_TOKENS)
    trust.predicted(0.0, odd)
    assert not trust.counted(odd, ENOUGH_TOKENS)
    assert not trust.counted(0.0, odd)
    assert compared(trust, 0.0)
    assert trust.share == 0.5
