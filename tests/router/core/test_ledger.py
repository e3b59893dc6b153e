"""Leases: released exactly once, and when prefill and decode load end."""

from __future__ import annotations

from kvroute.scorers.contract import Column
from tests.router.core.deciding import prompt, sent, world


def test_a_second_settle_changes_nothing() -> None:
    """Every way out may settle; only the first counts."""
    deciding = world(1)
    decision = sent(deciding.decide(prompt("a" * 100), 0.0))
    assert deciding.ledger.settle(decision.lease, 1.0, completed=True)
    assert not deciding.ledger.settle(decision.lease, 1.0, completed=True)
    assert deciding.fleet.table[Column.REQUESTS, 0] == 0.0


def test_a_stream_decodes_from_its_first_output() -> None:
    """Prefill load ends at the first output, decode load at the end; all its sequences decode."""
    deciding = world(1)
    cells = next(iter(deciding.fleet)).cells
    decision = sent(deciding.decide(prompt("a" * 100, sequences=3), 0.0))
    assert (cells[Column.QUEUED_TOKENS], cells[Column.DECODING]) == (100.0, 0.0)
    assert deciding.ledger.first_output(decision.lease, 0.5)
    assert not deciding.ledger.first_output(decision.lease, 0.6)
    assert (cells[Column.QUEUED_TOKENS], cells[Column.DECODING]) == (0.0, 3.0)
    deciding.ledger.settle(decision.lease, 1.0, completed=True)
    assert cells[Column.DECODING] == 0.0


def test_a_whole_reply_leaves_prefill_at_its_predicted_end() -> None:
    """Without a stream nobody sees the first token, so the prediction stands in; it does not train the rate."""
    deciding = world(1)
    cells = next(iter(deciding.fleet)).cells
    decision = sent(deciding.decide(prompt("a" * 1000, stream=False), 0.0))
    deciding.ledger.advance(decision.predicted_ttft * 0.9)
    assert cells[Column.QUEUED_TOKENS] == 1000.0
    deciding.ledger.advance(decision.predicted_ttft * 1.1)
    assert (cells[Column.QUEUED_TOKENS], cells[Column.DECODING]) == (0.0, 1.0)
    assert deciding.estimate.rate(decision.replica).observed == 0


def test_an_old_stream_is_not_reaped_by_age() -> None:
    """A stream without first output keeps its load, however long it takes: long requests are normal."""
    deciding = world(1)
    decision = sent(deciding.decide(prompt("a" * 1000), 0.0))
    deciding.ledger.advance(1e6)
    assert decision.replica.cells[Column.QUEUED_TOKENS] == 1000.0
    assert deciding.ledger.settle(decision.lease, 1e6, completed=True)
