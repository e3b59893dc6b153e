"""The queue scorer."""

from __future__ import annotations

import pytest

from kvroute.scorers.queue import Queue
from kvroute.scorers.testing import candidates, request


def test_adds_linear_quadratic_and_outside_work() -> None:
    """Queued tokens and their attention are priced at the replica's rates, outside seconds come on top."""
    given = candidates(
        2,
        queued_tokens=[1000, 0],
        queued_quadratic=[1e6, 0],
        outside_seconds=[0.25, 0],
        seconds_per_token=1e-4,
        seconds_per_quadratic=1e-8,
    )
    assert Queue().seconds(request(), given, 0.0).tolist() == pytest.approx([0.1 + 0.01 + 0.25, 0.0])
