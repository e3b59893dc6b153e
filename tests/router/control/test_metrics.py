"""The metrics page, read back by prometheus-client's parser, and its documentation."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kvroute.router.control.catalogue import CATALOGUE
from kvroute.router.control.contract import ReplicaStatus
from kvroute.router.control.gathered import GATHERED
from kvroute.router.control.metrics import Metrics

DOCUMENT = Path(__file__).parents[3] / "docs/metrics.md"


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of the page by name and sorted labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families("".join(metrics.pieces()))
        for sample in family.samples
    }


def test_the_document_and_the_code_list_the_same_metrics() -> None:
    """Name, type and labels, both ways."""
    rows = re.findall(r"^\| `(kvroute_\w+)` \| (\w+) \| ([\w, ]*?) ?\|", DOCUMENT.read_text(), re.MULTILINE)
    documented = [(name, kind, tuple(filter(None, labels.split(", ")))) for name, kind, labels in rows]
    assert sorted(documented) == sorted((metric.name, metric.kind, metric.labels) for metric in CATALOGUE + GATHERED)


def test_the_page_exports_the_whole_catalogue() -> None:
    """Each metric has its header with the right type, also before anything was counted."""
    text = "".join(Metrics().pieces())
    headers = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    assert sorted(headers) == sorted((metric.name, metric.kind) for metric in CATALOGUE)


def test_counts_appear_with_their_labels() -> None:
    """What recorders hold is what the page says."""
    metrics = Metrics("1.2", "latency")
    series = metrics.request("m", "a:1")
    series.completed += 2
    series.in_flight += 1
    series.best_cached_tokens += 100
    series.predicted_cached_tokens += 60
    series.ttft.observe(0.03)
    metrics.router.decision.observe(1e-5)
    metrics.counters.cut = 4
    metrics.ejected("a:1")
    metrics.restarted("a:1")
    metrics.plugin_failed("mine")
    found = samples(metrics)
    labels = (("model", "m"), ("replica", "a:1"))
    assert found["kvroute_requests_total", (*labels[:1], ("outcome", "completed"), *labels[1:])] == 2
    assert found["kvroute_in_flight", labels] == 1
    assert found["kvroute_cache_regret_tokens_total", labels] == 40
    assert found["kvroute_ttft_seconds_bucket", (("le", "0.02"), *labels)] == 0
    assert found["kvroute_ttft_seconds_bucket", (("le", "0.05"), *labels)] == 1
    assert found["kvroute_ttft_seconds_bucket", (("le", "+Inf"), *labels)] == 1
    assert found["kvroute_ttft_seconds_sum", labels] == 0.03
    assert found["kvroute_decision_seconds_count", ()] == 1
    assert found["kvroute_cut_total", ()] == 4
    assert found["kvroute_ejections_total", (("replica", "a:1"),)] == 1
    assert found["kvroute_restarts_total", (("replica", "a:1"),)] == 1
    assert found["kvroute_plugin_failures_total", (("plugin", "mine"),)] == 1
    assert found["kvroute_info", (("policy", "latency"), ("version", "1.2"))] == 1


def test_replica_gauges_are_asked_for_at_each_page() -> None:
    """State as 0 and 1; what is unknown is left out rather than shown as 0."""
    metrics = Metrics()
    fleet = [ReplicaStatus(name="a:1", state="ready", cached_tokens=5.0)]
    metrics.replicas = lambda: fleet
    found = samples(metrics)
    assert found["kvroute_replica_state", (("replica", "a:1"), ("state", "ready"))] == 1
    assert found["kvroute_replica_state", (("replica", "a:1"), ("state", "ejected"))] == 0
    assert found["kvroute_replica_cached_tokens", (("replica", "a:1"),)] == 5
    assert ("kvroute_replica_capacity_tokens", (("replica", "a:1"),)) not in found
    fleet.clear()
    assert not [name for name, _ in samples(metrics) if name.startswith("kvroute_replica")]


def test_a_recorder_is_resolved_once() -> None:
    """The same pair gives the same object; a forgotten replica starts anew."""
    metrics = Metrics()
    first = metrics.request("m", "a:1")
    assert metrics.request("m", "a:1") is first
    metrics.ejected("a:1")
    metrics.forget("a:1")
    assert metrics.request("m", "a:1") is not first
    assert not [name for name, _ in samples(metrics) if name == "kvroute_ejections_total"]


def test_label_sets_are_bounded() -> None:
    """Memory stays flat whatever is counted."""
    metrics = Metrics(max_series=3)
    for number in range(10):
        metrics.request(f"m{number}", "a:1").completed += 1
    found = {
        labels: value
        for (name, labels), value in samples(metrics).items()
        if name == "kvroute_requests_total" and ("outcome", "completed") in labels
    }
    assert sum(found.values()) == 10
    assert len(found) == 4
    assert max(found.values()) == 7


@settings(deadline=None)
@given(st.text(), st.text())
def test_any_label_text_survives(model: str, plugin: str) -> None:
    """Quotes, backslashes and line feeds are escaped so that a parser reads them back."""
    metrics = Metrics()
    metrics.request(model, "").completed = 3
    metrics.plugin_failed(plugin)
    found = samples(metrics)
    assert found["kvroute_requests_total", (("model", model), ("outcome", "completed"), ("replica", ""))] == 3
    assert found["kvroute_plugin_failures_total", (("plugin", plugin),)] == 1


async def test_a_large_page_lets_others_run() -> None:
    """The loop turns many times while the page of 100 replicas is written."""
    metrics = Metrics()
    for number in range(100):
        metrics.request("m", f"r{number}")
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    page = await metrics.page()
    counting.cancel()
    assert turns > 50
    assert b'kvroute_ttft_seconds_count{model="m",replica="r99"} 0' in page
    assert b"process_resident_memory_bytes" in page
