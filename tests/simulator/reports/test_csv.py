"""One line a request."""

from __future__ import annotations

import csv

from kvroute.simulator.reports.csv import HEADER, lines
from tests.simulator.reports.outcomes import outcome, scenario


def test_all_that_is_known_of_each_request() -> None:
    """Names for replicas, empty cells for what did not happen."""
    run = outcome(
        [(0.25, 0.5, 1.0, 2.0), (1.0, None, None, None)], replica=[1, -1], output=[5, 3], replicas=2, refused=1
    )
    run.names[1] = 'gpu "b", left'
    rows = list(csv.DictReader(lines(run, scenario(2))))
    assert tuple(rows[0]) == HEADER
    assert rows[0]["replica"] == 'gpu "b", left'
    assert rows[0]["ttft_s"] == "0.750000"
    assert rows[0]["tpot_s"] == "0.250000"
    assert rows[0]["queue_s"] == "0.250000"
    assert rows[0]["prompt_tokens"] == "100"
    assert rows[1]["replica"] == rows[1]["ttft_s"] == rows[1]["last_token_s"] == ""
    assert [row["request"] for row in rows] == ["0", "1"]
