"""The adapter scorer."""

from __future__ import annotations

from kvroute.scorers.adapter import Adapter
from kvroute.scorers.testing import candidates, request


def test_loading_costs_where_the_adapter_is_not_resident() -> None:
    """A replica that has the adapter costs nothing, the others their load time."""
    given = candidates(2, adapter_seconds=[0.5, 0.7], adapter_resident=[1.0, 0.0])
    assert Adapter().seconds(request(adapter="a"), given, 0.0).tolist() == [0.0, 0.7]


def test_a_request_without_adapter_costs_nothing() -> None:
    """No adapter asked for, nothing to load."""
    assert Adapter().seconds(request(), candidates(2), 0.0).tolist() == [0.0, 0.0]
