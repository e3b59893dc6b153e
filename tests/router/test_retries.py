"""The retry budget."""

from __future__ import annotations

from kvroute.router.retries import RetryBudget


def test_retries_are_a_share_of_requests() -> None:
    """After the burst is spent, ten requests pay for one retry at a share of a tenth."""
    budget = RetryBudget(share=0.1, start=2.0)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    granted = 0
    for _ in range(1000):
        budget.request()
        granted += budget.spend()
    assert 99 <= granted <= 100
    assert (budget.spent, budget.refused) == (2 + granted, 1 + 1000 - granted)


def test_no_share_no_retry() -> None:
    """A share of zero grants nothing at all."""
    budget = RetryBudget(share=0.0)
    budget.request()
    assert not budget.spend()


def test_clean_traffic_saves_up_for_a_replica_that_dies_with_hundreds_of_requests() -> None:
    """Up to a bound."""
    budget = RetryBudget(share=0.1)
    for _ in range(100_000):
        budget.request()
    assert sum(budget.spend() for _ in range(5000)) == 1024
