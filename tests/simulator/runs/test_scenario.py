"""What can be simulated."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kvroute.simulator.runs.scenario import Lateness


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"event_seconds": -0.1}, "event_seconds is at least 0, not -0.1"),
        ({"scrape_seconds": 0.0}, "scrape_seconds is above 0, not 0.0"),
        ({"scrape_seconds": math.nan}, "scrape_seconds is above 0, not nan"),
        ({"routers": 0}, "routers is at least 1, not 0"),
        ({"share_seconds": -1.0}, "share_seconds is at least 0, or None, not -1.0"),
    ],
)
def test_lateness_that_cannot_be_is_told(given: dict[str, Any], message: str) -> None:
    """Where it is made, by the name of its field."""
    with pytest.raises(ValueError, match=message):
        Lateness(**given)


def test_nothing_need_be_late() -> None:
    """Zero is a time."""
    assert Lateness(event_seconds=0.0, share_seconds=0.0).routers == 1
