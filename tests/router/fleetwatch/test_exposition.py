"""Reading vLLM's metrics text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.fleetwatch.exposition import COUNTERS, Reading, parse_metrics, restarted

CAPTURE = Path(__file__).parents[4] / "shared/data/vllm_captures/metrics_idle.txt"

BUSY = b"""# HELP process_start_time_seconds Start time
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.5e+09
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 5.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 70.0
# TYPE vllm:engine_sleep_state gauge
vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="1",model_name="m",sleep_state="awake"} 0.0
vllm:engine_sleep_state{engine="1",model_name="m",sleep_state="discard_all"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 1.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 2.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 0.5
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1",model_name="m"} 1.0
vllm:time_to_first_token_seconds_count{engine="1",model_name="m"} 4.0
vllm:time_to_first_token_seconds_sum{engine="1",model_name="m"} 1.5
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000",hash_block_size="7"} 1.0
vllm:cache_config_info{block_size="16",engine="1",kv_cache_size_tokens="9000",num_gpu_blocks="None"} 1.0
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="2",running_lora_adapters="old",waiting_lora_adapters=""} 1.0
vllm:lora_requests_info{max_lora="2",running_lora_adapters="a,b",waiting_lora_adapters="c"} 2.0
"""


def test_the_captured_page_of_an_idle_engine() -> None:
    """What vLLM 0.32 really exports is understood, capacity included."""
    if not CAPTURE.exists():
        pytest.skip(f"{CAPTURE} is not there")
    (reading,) = parse_metrics(CAPTURE.read_bytes())
    assert (reading.capacity_tokens, reading.block_size, reading.prefix_caching) == (1048576.0, 32, True)
    assert reading.started_at == pytest.approx(1795328336.86)
    assert not reading.asleep
    missing = [field for field in ("running", "waiting", "kv_usage", *COUNTERS) if getattr(reading, field) is None]
    assert missing == []


def test_ranks_are_told_apart() -> None:
    """Each value lands at the rank of its `engine` label."""
    first, second = parse_metrics(BUSY)
    assert (first.running, first.waiting, first.kv_usage, first.asleep) == (3.0, 7.0, 0.25, False)
    assert (second.rank, second.running, second.waiting, second.kv_usage, second.asleep) == (1, 5.0, 0.0, None, True)
    assert (first.ttft_seconds, first.ttft_count, second.ttft_seconds, second.ttft_count) == (0.5, 2.0, 1.5, 4.0)
    assert first.started_at == second.started_at == 1.5e9


def test_capacity_is_told_or_multiplied() -> None:
    """`kv_cache_size_tokens` where given, else blocks times block size."""
    first, second = parse_metrics(BUSY)
    assert (first.capacity_tokens, second.capacity_tokens) == (16000.0, 9000.0)


def test_the_newest_adapter_sample_counts() -> None:
    """vLLM keeps a sample for each combination it ever saw; its value is its time."""
    first = parse_metrics(BUSY)[0]
    assert (first.running_adapters, first.waiting_adapters, first.max_adapters) == (("a", "b"), ("c",), 2)


def test_a_metric_out_of_order_is_found() -> None:
    """The engine's order makes reading quick but is not relied on."""
    text = (
        b'vllm:prompt_tokens_total{engine="0"} 9\nvllm:num_requests_running{engine="0"} 4\nprocess_start_time_seconds 1'
    )
    (reading,) = parse_metrics(text)
    assert (reading.prompt_tokens, reading.running, reading.started_at) == (9.0, 4.0, 1.0)


def test_old_names_are_known() -> None:
    """Releases before the rename are read too."""
    (reading,) = parse_metrics(b'vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n')
    assert (reading.rank, reading.kv_usage) == (0, 0.5)


def test_hostile_labels_do_not_confuse() -> None:
    """Braces, quotes, commas and line feeds inside label values stay there."""
    text = rb'vllm:num_requests_running{model_name="a}\" 9,engine=\"7\" {\n",engine="2"} 4 1700000000' + b"\n"
    (reading,) = parse_metrics(text)
    assert (reading.rank, reading.running) == (2, 4.0)


@pytest.mark.parametrize(
    "line",
    [
        b"vllm:num_requests_running",
        b"vllm:num_requests_running ",
        b'vllm:num_requests_running{engine="0"',
        b'vllm:num_requests_running{engine="0"}',
        b'vllm:num_requests_running{engine="0"} NaN',
        b'vllm:num_requests_running{engine="0"} +Inf',
        b'vllm:num_requests_running{engine="0"} many',
        b'# vllm:num_requests_running{engine="0"} 1',
        b'xvllm:num_requests_running{engine="0"} 1',
        b"<html>not metrics</html>",
        b"",
    ],
)
def test_bad_lines_are_skipped(line: bytes) -> None:
    """A line that cannot be understood tells nothing, and harms no other."""
    assert [reading.running for reading in parse_metrics(line)] in ([], [None])
    after = parse_metrics(line + b'\nvllm:num_requests_waiting{engine="0"} 2\n')
    assert after[0].waiting == 2.0


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(BUSY)), st.integers(0, len(BUSY)))
def test_damaged_text_never_raises(junk: bytes, start: int, end: int) -> None:
    """Any bytes in place of any part of a page give readings with finite numbers or none."""
    for reading in parse_metrics(BUSY[:start] + junk + BUSY[end:]):
        for field in ("running", *COUNTERS):
            value = getattr(reading, field)
            assert value is None or abs(value) < float("inf")


def test_a_restart_shows_by_start_time_or_by_totals() -> None:
    """Either sign is enough; growth and missing values are none."""
    before = [Reading(started_at=100.0, prompt_tokens=50.0)]
    assert not restarted(before, [Reading(started_at=100.01, prompt_tokens=60.0)])
    assert restarted(before, [Reading(started_at=160.0, prompt_tokens=60.0)])
    assert restarted(before, [Reading(started_at=100.0, prompt_tokens=3.0)])
    assert not restarted(before, [Reading()])
    assert not restarted(before, [Reading(rank=1, prompt_tokens=3.0)])
    assert not restarted([], before)
    assert not restarted([Reading(queue_seconds=1e5)], [Reading(queue_seconds=math.nextafter(1e5, 0.0))])
    assert restarted([Reading(queue_seconds=1e5)], [Reading(queue_seconds=1e5 - 1.0)])
    assert restarted([Reading(prompt_tokens=1e9)], [Reading(prompt_tokens=1e9 - 1.0)])
    assert not restarted([Reading(running=5.0, kv_usage=0.5)], [Reading(running=0.0, kv_usage=0.0)])
