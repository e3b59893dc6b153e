"""Load that is not ours is what three readings agree on, beyond the sequences of our own leases."""

from __future__ import annotations

import pytest

from kvroute.router.core.outside import READINGS, Outside
from kvroute.scorers.contract import Column, Request
from tests.router.core.deciding import sent, world


def test_one_request_of_many_sequences_is_ours() -> None:
    """The engine counts 64 sequences for one request with n=64, and none of them is somebody else's."""
    deciding = world(1)
    (replica,) = deciding.fleet
    outside = Outside(deciding.fleet)
    decision = sent(deciding.decide(Request(id="1", model="m", tokens=5, sequences=64, stream=True), 0.0))
    deciding.ledger.first_output(decision.lease, 0.1)
    for _ in range(READINGS):
        outside.read(replica, 64.0, 0.0, 256.0)
    assert replica.cells[Column.DECODING] == 64.0
    for _ in range(READINGS):
        outside.read(replica, 67.0, 0.0, 256.0)
    assert replica.cells[Column.DECODING] == 67.0


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_reading_that_is_no_number_is_left_out(odd: float) -> None:
    """It would stay in the table for good."""
    deciding = world(1)
    (replica,) = deciding.fleet
    outside = Outside(deciding.fleet)
    before = list(replica.cells)
    for _ in range(READINGS):
        outside.read(replica, odd, 0.0, 256.0)
        outside.read(replica, 3.0, odd, 256.0)
        outside.read(replica, 3.0, 2.0, odd)
    assert list(replica.cells) == before
