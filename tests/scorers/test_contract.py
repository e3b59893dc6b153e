"""The contract's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from kvroute.scorers.contract import Candidates, Column
from kvroute.scorers.testing import candidates


def test_taking_some_candidates_keeps_their_columns_together() -> None:
    """Index i of what is taken speaks of the same replica in every array, in the order asked for."""
    given = candidates(
        3,
        hit_tokens=[1, 2, 3],
        labels=[{"zone": "a"}, {"zone": "b"}, {"zone": "c"}],
        adapter_resident=[0, 1, 0],
        requests=[10, 20, 30],
    )
    taken = given.take([2, 1])
    assert list(taken.names) == [given.names[2], given.names[1]]
    assert taken.hit_tokens.tolist() == [3, 2]
    assert taken.column(Column.REQUESTS).tolist() == [30, 20]
    assert [label["zone"] for label in taken.labels] == ["c", "b"]
    assert taken.adapter_resident is not None
    assert taken.adapter_resident.tolist() == [0, 1]


def test_the_columns_stand_in_the_order_that_the_fused_sum_unpacks() -> None:
    """The loop unpacks rows by position: a column that is added or moved must be followed there."""
    assert [column.name for column in Column] == [
        "QUEUED_TOKENS", "QUEUED_QUADRATIC", "OUTSIDE_SECONDS", "SECONDS_PER_TOKEN", "SECONDS_PER_QUADRATIC",
        "REQUESTS", "DECODING", "BUSY", "ACTIVE_TOKENS", "CACHED_TOKENS", "CAPACITY_TOKENS", "SLOTS",
        "OUTPUT_TOKENS", "STEP_SECONDS", "ADAPTER_SECONDS", "ROLE", "CHOSEN", "BASE_SECONDS",
    ]  # fmt: skip
    assert [int(column) for column in Column] == list(range(18))


def test_what_is_shown_is_read_only_and_the_owner_still_writes() -> None:
    """No plugin can change the fleet's own columns through the view that it is shown."""
    fleet = np.zeros((len(Column), 8))
    given = Candidates(("a", "b"), fleet[:, :2], np.zeros(2), 100)
    for array in (given.table, given.hit_tokens, given.prefill_seconds, given.column(Column.BUSY)):
        with pytest.raises(ValueError, match="read-only"):
            array += 1.0
    fleet[Column.BUSY] = 0.5
    assert given.column(Column.BUSY).tolist() == [0.5, 0.5]
