"""The stand-in's /metrics: vLLM's names and labels, filled from the engine model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kvroute.router.testing.options import Options
from kvroute.router.testing.work import Content
from kvroute.simulator.engine.step import Output, Step
from kvroute.simulator.engine.stepwise import Engine

_Family = TypeVar("_Family", Counter, Gauge, Histogram)

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_SECONDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_TTFT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
_TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_HISTOGRAMS = {
    "request_prompt_tokens": ("Number of prefill tokens processed.", _TOKENS),
    "request_generation_tokens": ("Number of generation tokens processed.", _TOKENS),
    "iteration_tokens_total": ("Histogram of number of tokens per engine_step.", _STEP_TOKENS),
    "time_to_first_token_seconds": ("Histogram of time to first token in seconds.", _TTFT),
    "inter_token_latency_seconds": ("Histogram of inter-token latency in seconds.", _TPOT),
    "request_time_per_output_token_seconds": ("Histogram of time_per_output_token_seconds per request.", _TPOT),
    "e2e_request_latency_seconds": ("Histogram of e2e request latency in seconds.", _SECONDS),
    "request_queue_time_seconds": ("Histogram of time spent in WAITING phase for request.", _SECONDS),
    "request_inference_time_seconds": ("Histogram of time spent in RUNNING phase for request.", _SECONDS),
    "request_prefill_time_seconds": ("Histogram of time spent in PREFILL phase for request.", _SECONDS),
    "request_decode_time_seconds": ("Histogram of time spent in DECODE phase for request.", _SECONDS),
    "request_num_preemptions": ("Number of preemptions per request.", (1, 2, 3, 4, 5, 10, 20)),
    "request_prefill_kv_computed_tokens": ("New KV tokens computed during prefill, cached ones excluded.", _TOKENS),
}
_COUNTERS = {
    "prefix_cache_queries": "Prefix cache queries, in tokens.",
    "prefix_cache_hits": "Prefix cache hits, in tokens.",
    "external_prefix_cache_queries": "External prefix cache queries, in tokens.",
    "external_prefix_cache_hits": "External prefix cache hits, in tokens.",
    "num_preemptions": "Cumulative number of preemptions.",
    "prompt_tokens": "Number of prefill tokens processed.",
    "prompt_tokens_cached": "Number of prompt tokens found in the cache.",
    "generation_tokens": "Number of generation tokens processed.",
}
_SLEEP_STATES = ("awake", "weights_offloaded", "discard_all")


class Page:
    """What `/metrics` shows: each name once, whichever ranks fill it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._families: dict[str, Any] = {}
        words = "Start time of the process since unix epoch in seconds."
        self.family(Gauge, "process_start_time_seconds", words).set(time.time())

    def family(self, kind: Callable[..., _Family], name: str, *how: Any, **more: Any) -> _Family:
        """The metric of that name, made by whoever asks first."""
        if name not in self._families:
            self._families[name] = kind(name, *how, registry=self.registry, **more)
        found: _Family = self._families[name]
        return found

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)


class Metrics:
    """One rank's metrics, on a page."""

    def __init__(self, options: Options, rank: int, page: Page) -> None:
        self._page = page
        self._options = options
        self._labels = {"engine": str(rank), "model_name": options.model}
        self._gauges = {
            "num_requests_running": self._gauge("num_requests_running", "Number of requests in execution batches."),
            "num_requests_waiting": self._gauge("num_requests_waiting", "Number of requests waiting to be processed."),
            "kv_cache_usage_perc": self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."),
        }
        self._counters = {name: self._counter(name, text) for name, text in _COUNTERS.items()}
        self._histograms = {name: self._histogram(name, *how) for name, how in _HISTOGRAMS.items()}
        self._by_reason = self._labelled_gauge(
            "num_requests_waiting_by_reason", "Waiting requests by reason.", "reason"
        )
        self._sleep = self._labelled_gauge(
            "engine_sleep_state", "Engine sleep state; awake = 0 means asleep.", "sleep_state"
        )
        self._success = page.family(
            Counter,
            "vllm:request_success",
            "Count of successfully processed requests.",
            ["engine", "finished_reason", "model_name"],
        )
        for reason in ("stop", "length", "abort", "error"):
            self._success.labels(finished_reason=reason, **self._labels)
        self._info(options)
        self._seen = dict.fromkeys(_COUNTERS, 0)

    def observe(self, step: Step) -> None:
        """One engine step has ended."""
        self._histograms["iteration_tokens_total"].observe(step.tokens)
        for output in step.outputs:
            self._observe_output(output, step)

    def aborted(self, sequences: int) -> None:
        """So many sequences were dropped."""
        self._success.labels(finished_reason="abort", **self._labels).inc(sequences)

    def refresh(self, engine: Engine, sleep_level: int) -> None:
        """Write what is read from the engine's state, as of now."""
        self._gauges["num_requests_running"].set(len(engine.running))
        self._gauges["num_requests_waiting"].set(len(engine.waiting))
        self._gauges["kv_cache_usage_perc"].set(engine.kv_usage)
        self._by_reason.labels(reason="capacity", **self._labels).set(len(engine.waiting))
        self._by_reason.labels(reason="deferred", **self._labels).set(0)
        for level, state in enumerate(_SLEEP_STATES):
            self._sleep.labels(sleep_state=state, **self._labels).set(level == sleep_level)
        totals = engine.totals
        self._count("prefix_cache_queries", totals.queried_tokens)
        self._count("prefix_cache_hits", totals.hit_tokens)
        self._count("num_preemptions", totals.preemptions)
        self._count("prompt_tokens", totals.prompt_tokens)
        self._count("prompt_tokens_cached", totals.cached_tokens)
        self._count("generation_tokens", totals.generated_tokens)

    def _observe_output(self, output: Output, step: Step) -> None:
        sequence, seen = output.sequence, self._histograms
        if output.first == 0:
            seen["time_to_first_token_seconds"].observe(sequence.first_output - sequence.arrived)
        else:
            seen["inter_token_latency_seconds"].observe((step.end - step.start) / output.tokens)
        if not output.finished:
            return
        prompt, generated = sequence.request.prompt_tokens, sequence.generated
        decode = sequence.ended - sequence.first_output
        seen["request_prompt_tokens"].observe(prompt)
        seen["request_generation_tokens"].observe(generated)
        seen["request_time_per_output_token_seconds"].observe(decode / max(generated - 1, 1))
        seen["e2e_request_latency_seconds"].observe(sequence.ended - sequence.arrived)
        seen["request_queue_time_seconds"].observe(sequence.scheduled - sequence.arrived)
        seen["request_inference_time_seconds"].observe(sequence.ended - sequence.scheduled)
        seen["request_prefill_time_seconds"].observe(sequence.first_output - sequence.scheduled)
        seen["request_decode_time_seconds"].observe(decode)
        seen["request_num_preemptions"].observe(sequence.preemptions)
        seen["request_prefill_kv_computed_tokens"].observe(prompt - sequence.cached_tokens)
        content = sequence.request.content
        assert isinstance(content, Content)
        self._success.labels(finished_reason=content.finish_reason, **self._labels).inc()

    def _count(self, name: str, total: int) -> None:
        self._counters[name].inc(total - self._seen[name])
        self._seen[name] = total

    def _gauge(self, name: str, text: str) -> Gauge:
        return self._page.family(Gauge, f"vllm:{name}", text, list(self._labels)).labels(**self._labels)

    def _labelled_gauge(self, name: str, text: str, label: str) -> Gauge:
        return self._page.family(Gauge, f"vllm:{name}", text, sorted((*self._labels, label)))

    def _counter(self, name: str, text: str) -> Counter:
        return self._page.family(Counter, f"vllm:{name}", text, list(self._labels)).labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        made = self._page.family(Histogram, f"vllm:{name}", text, list(self._labels), buckets=buckets)
        return made.labels(**self._labels)

    def _info(self, options: Options) -> None:
        config = {
            "block_size": str(options.block_size),
            "enable_prefix_caching": "True",
            "engine": self._labels["engine"],
            "kv_cache_max_concurrency": str(options.kv_blocks * options.block_size / options.context_tokens),
            "kv_cache_size_tokens": str(options.kv_blocks * options.block_size),
            "num_gpu_blocks": str(options.kv_blocks),
            "prefix_caching_hash_algo": "xxhash",
        }
        text = "Information of the LLMEngine CacheConfig"
        self._page.family(Gauge, "vllm:cache_config_info", text, list(config)).labels(**config).set(1)
        lora = {
            "max_lora": str(len(options.loras)),
            "running_lora_adapters": ",".join(options.loras),
            "waiting_lora_adapters": "",
        }
        if options.loras:
            running = "Running stats on lora requests."
            told = self._page.family(Gauge, "vllm:lora_requests_info", running, list(lora))
            told.labels(**lora).set_to_current_time()
