"""The stand-in's metrics against a dump of real vLLM's."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvroute.router.testing.metrics import Metrics, Page
from kvroute.router.testing.options import Options
from kvroute.simulator.engine.steptime import from_rates
from kvroute.simulator.engine.stepwise import Engine

DUMP = Path(__file__).parents[4] / "shared" / "data" / "vllm_captures" / "metrics_idle.txt"

LEFT_OUT = {
    "vllm:estimated_": "what a GPU computes, read and wrote: there is none",
    "vllm:mm_cache_": "the cache of images: the stand-in takes none",
    "vllm:prompt_tokens_by_source": "one source only: the local cache",
    "vllm:prompt_tokens_cached_by_source": "one source only: the local cache",
    "vllm:admission_rejections": "--max-num-queued-reqs is not imitated",
    "vllm:request_max_num_generation_tokens": "a parameter of the requests, not of the engine's state",
    "vllm:request_params_": "a parameter of the requests, not of the engine's state",
    "python_": "of the interpreter",
    "process_": "of the process",
    "http_": "of the HTTP framework",
}
"""Captured names that the stand-in does not have, by their start, with the reason."""


def _page(options: Options, sleep_level: int) -> str:
    page = Page()
    for rank in range(options.data_parallel_size):
        metrics = Metrics(options, rank, page)
        metrics.refresh(Engine(options.limits, from_rates(1.0, 1.0)), sleep_level)
    return page.render().decode()


def _labels(text: str) -> dict[str, set[frozenset[str]]]:
    """Label names of each sample name."""
    found: dict[str, set[frozenset[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found.setdefault(sample.name, set()).add(frozenset(sample.labels))
    return found


@pytest.mark.skipif(not DUMP.exists(), reason="the dump metrics_idle.txt is not here")
def test_names_and_labels_are_those_of_vllm() -> None:
    """Every name is vLLM's, with its labels, and every name of vLLM's is there or left out for a stated reason."""
    options = Options()
    ours = _labels(_page(options, 0))
    theirs = _labels(DUMP.read_text())
    assert set(ours) <= set(theirs)
    missing = set(theirs) - set(ours)
    assert {name for name in missing if not name.startswith(tuple(LEFT_OUT))} == set()
    assert all(any(name.startswith(start) for name in missing) for start in LEFT_OUT)
    for name in set(ours) - {"vllm:cache_config_info"}:
        assert ours[name] == theirs[name], name
    (config,), (their_config,) = ours["vllm:cache_config_info"], theirs["vllm:cache_config_info"]
    assert config <= their_config


def test_capacity_is_told_as_vllm_tells_it() -> None:
    """The cache's size stands in `cache_config_info`, in blocks and in tokens; adapters in `lora_requests_info`."""
    options = Options(kv_blocks=100, block_size=16, loras=("a", "b"))
    text = _page(options, 1)
    (config,) = (line for line in text.splitlines() if line.startswith("vllm:cache_config_info{"))
    assert 'num_gpu_blocks="100"' in config
    assert 'kv_cache_size_tokens="1600"' in config
    assert 'running_lora_adapters="a,b"' in text
    assert 'vllm:engine_sleep_state{engine="0",model_name="mock",sleep_state="weights_offloaded"} 1.0' in text
