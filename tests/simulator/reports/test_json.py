"""Results as JSON."""

from __future__ import annotations

import orjson

from kvroute import __version__
from kvroute.simulator.reports.json import document, run_document
from kvroute.simulator.reports.summary import Summary, summarise
from kvroute.simulator.runs.outcome import Sample
from kvroute.simulator.slo import Slo
from tests.simulator.reports.outcomes import outcome, queue, scenario


def test_the_schema() -> None:
    """Version, scenario with equal replicas counted, summary with all its fields in order, samples."""
    samples = [Sample(0.5, [1, 0], [0, 0], [0.1, 0.0]), Sample(1.0, [0, 0], [0, 0], [0.0, 0.0])]
    run = outcome([(0.0, 0.0, 1 / 3, 2.0)], samples=samples, replicas=2)
    fleet = scenario(2)
    found = orjson.loads(run_document(fleet, summarise(run, fleet, Slo.parse("ttft_p90<1s")), run.samples))
    assert list(found) == ["kvroute", "scenario", "summary", "samples"]
    assert found["kvroute"] == __version__
    assert [(one["count"], one["kind"]["name"]) for one in found["scenario"]["replicas"]] == [(2, "test")]
    assert list(found["summary"]) == list(Summary.__struct_fields__)
    assert found["summary"]["ttft"]["mean"] == 0.333333
    assert found["summary"]["slo_met"] is True
    assert found["samples"][1] == {"time": 1.0, "running": [0, 0], "waiting": [0, 0], "kv_usage": [0.0, 0.0]}


def test_same_run_same_bytes_and_a_last_newline() -> None:
    """Nothing of the machine, and no time of day, is in it."""
    one, two = (queue(0.9, 500, 3, replicas=2) for _ in range(2))
    two.cpu_seconds, two.decision_seconds = 99.0, 9.0
    fleet = scenario(2)
    first, second = (run_document(fleet, summarise(run, fleet), run.samples) for run in (one, two))
    assert first == second
    assert first.endswith(b"}\n")


def test_what_is_no_number_is_null() -> None:
    """JSON has no NaN and no infinity."""
    found = orjson.loads(document({"values": [float("nan"), float("inf"), 1e-9 / 3, 123456.789]}))
    assert found["values"] == [None, None, 3.33333e-10, 123457.0]
