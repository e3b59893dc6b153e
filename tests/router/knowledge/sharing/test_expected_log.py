"""The queue of what is to be told: in order, in batches, bounded."""

from __future__ import annotations

import pytest

from kvroute.router.core.decide import Deciding, Decision
from kvroute.router.knowledge.sharing import expected_log, records
from kvroute.router.knowledge.sharing.expected_log import ExpectedLog, Page
from tests.router.core.deciding import prompt, sent, world


class Teller:
    """A world that tells."""

    def __init__(self) -> None:
        self.deciding: Deciding = world(2)
        self.woken = 0
        self.log = ExpectedLog(9, lambda replica: 77.0)
        self.log.wake = self.wake
        self.deciding.ledger.journal = self.log

    def wake(self) -> None:
        self.woken += 1

    def open(self, text: str = "a" * 100) -> Decision:
        return sent(self.deciding.decide(prompt(text), 0.0))

    def told(self) -> list[records.Record]:
        """Everything that waits, as it is on the wire."""
        found: list[records.Record] = []
        while pages := self.log.batch():
            found += [record for page in pages for record in records.unpack_records(page.data)]
            self.log.sent()
        return found


def numbers(pages: list[Page]) -> dict[str, int]:
    return {page.replica: records.unpack_header(page.data).number for page in pages}


def test_a_request_is_told_in_three_records() -> None:
    """Opened, prefilled, settled, each with the lease's number; the opened one with its keys."""
    teller = Teller()
    decision = teller.open()
    teller.deciding.ledger.prefilled(decision.lease, 0.0)
    teller.deciding.ledger.settle(decision.lease, 0.0, completed=True, output_tokens=12)
    opened, begun, settled = teller.told()
    assert isinstance(opened, records.Opened)
    assert opened.key_list() == prompt("a" * 100).keys
    assert (opened.tokens, opened.hit, opened.stream) == (100, 0.0, True)
    assert begun == records.Prefilled(opened.order)
    assert settled == records.Settled(opened.order, True, 12)
    assert not teller.log.open


def test_the_first_record_wakes_once() -> None:
    """Whoever sends is woken when there is something to send, and not for each record."""
    teller = Teller()
    teller.open()
    teller.open()
    assert teller.woken == 1
    teller.told()
    teller.open()
    assert teller.woken == 2


def test_a_batch_stays_the_same_until_it_is_sent() -> None:
    """A batch whose fate is unknown is sent again as it was, under the same number; then the numbers go on."""
    teller = Teller()
    teller.open()
    first = list(teller.log.batch())
    teller.open()
    assert list(teller.log.batch()) == first
    teller.log.sent()
    second = list(teller.log.batch())
    assert second != first
    teller.log.sent()
    teller.deciding.ledger.journal = None
    for replica, number in numbers(second).items():
        assert number == numbers(first).get(replica, 0) + 1


def test_a_replica_that_comes_back_is_numbered_on() -> None:
    """Followers remember the last number of a name: it must not be used again."""
    teller = Teller()
    for _ in range(4):
        teller.open()
        last = numbers(list(teller.log.batch()))
        teller.log.sent()
    (name,) = last
    teller.log.forget(name)
    while (decision := teller.open()).replica.name != name:
        pass
    again = numbers(list(teller.log.batch()))
    assert decision.replica.name == name
    assert again[name] > last[name]


def test_pages_know_the_engines_life() -> None:
    """An entry says which of the replica's engines it speaks of."""
    teller = Teller()
    teller.open()
    (page,) = teller.log.batch()
    assert records.unpack_header(page.data) == records.Header(9, 1, 77.0)


def test_batches_are_small() -> None:
    """Much that waits goes in several batches, so that neither side works on one for long."""
    teller = Teller()
    for i in range(200):
        teller.open(f"{i}" + "x" * 16 * 500)
    sizes = []
    while pages := teller.log.batch():
        sizes.append(sum(len(page.data) for page in pages))
        teller.log.sent()
    assert len(sizes) > 3
    assert max(sizes) < expected_log.BATCH_BYTES + 10_000
    assert teller.log.waiting_bytes == 0


def test_a_full_queue_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded while nothing can be told; then what is open is told anew, once."""
    monkeypatch.setattr(expected_log, "MOST_RECORDS", 10)
    teller = Teller()
    decisions = [teller.open(f"{i}" * 100) for i in range(20)]
    assert (len(teller.log), teller.log.dropped, teller.log.doubt) == (10, 10, True)
    orders = sorted(record.order for record in teller.told())
    assert orders == [decision.lease.order for decision in decisions[10:]]
    for decision in decisions[:15]:
        teller.deciding.ledger.settle(decision.lease, 0.0, completed=False)
    teller.told()
    teller.log.tell_again()
    orders = sorted(record.order for record in teller.told())
    assert orders == [decision.lease.order for decision in decisions[15:]]
    assert not teller.log.doubt


def test_the_queue_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long prompts fill it sooner."""
    monkeypatch.setattr(expected_log, "MOST_BYTES", 20_000)
    teller = Teller()
    for i in range(20):
        teller.open(f"{i}" + "x" * 16 * 500)
    assert teller.log.waiting_bytes <= 20_000
    assert len(teller.log) == 4
