"""Reads the few numbers that routing needs out of vLLM's Prometheus text, one `Reading` per data-parallel rank.

It looks for known names instead of parsing every line: an engine's page has some 60 KB, and there may be hundreds.
"""

from __future__ import annotations

import math
import re

import msgspec

_SAMPLE = re.compile(rb'(?:\{((?:[^"{}\n]|"(?:[^"\\\n]|\\.)*")*)\})?[ \t]+([^\s#]+)')
_LABEL = re.compile(rb'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\\n]|\\.)*)"')
_CACHE_LABEL = re.compile(
    rb'(?:^|,)\s*(block_size|num_gpu_blocks|kv_cache_size_tokens|enable_prefix_caching)="([^"\\]*)"'
)
_ENGINE = re.compile(rb'(?:^|,)\s*engine="(\d{1,6})"')
_ESCAPE = re.compile(r"\\(.)")


class Reading(msgspec.Struct):
    """What one rank's `/metrics` said. None: not exported by this engine. Totals count since the engine's start."""

    rank: int = 0
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    """Share of KV blocks held by running requests [0..1]; cached blocks that nobody uses count as free."""
    capacity_tokens: float | None = None
    """KV cache size [tokens]."""
    block_size: int | None = None
    """Tokens of one KV block."""
    prefix_caching: bool | None = None
    prefix_queries: float | None = None
    """Prompt tokens looked up in the prefix cache."""
    prefix_hits: float | None = None
    """Prompt tokens found there."""
    cached_tokens: float | None = None
    """Prompt tokens not computed, local and external caches together."""
    prompt_tokens: float | None = None
    computed_tokens: float | None = None
    """New KV tokens computed in prefill, counted when a request finishes."""
    generation_tokens: float | None = None
    preemptions: float | None = None
    prefill_seconds: float | None = None
    """Sum over finished requests of the time from scheduling to first token [seconds]."""
    prefills: float | None = None
    """Finished requests behind `prefill_seconds`."""
    queue_seconds: float | None = None
    """Sum over finished requests of the time spent waiting [seconds]."""
    ttft_seconds: float | None = None
    ttft_count: float | None = None
    inter_token_seconds: float | None = None
    inter_token_count: float | None = None
    started_at: float | None = None
    """When the serving process started [Unix seconds]; None with several API server processes."""
    asleep: bool = False
    """The engine's weights or cache are offloaded (`/sleep`)."""
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()
    max_adapters: int | None = None
    """LoRA adapters that fit at once."""


_PLAIN: dict[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "prefix_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "cached_tokens": ("vllm:prompt_tokens_cached_total",),
    "prompt_tokens": ("vllm:prompt_tokens_total",),
    "computed_tokens": ("vllm:request_prefill_kv_computed_tokens_sum",),
    "generation_tokens": ("vllm:generation_tokens_total",),
    "preemptions": ("vllm:num_preemptions_total",),
    "prefill_seconds": ("vllm:request_prefill_time_seconds_sum",),
    "prefills": ("vllm:request_prefill_time_seconds_count",),
    "queue_seconds": ("vllm:request_queue_time_seconds_sum",),
    "ttft_seconds": ("vllm:time_to_first_token_seconds_sum",),
    "ttft_count": ("vllm:time_to_first_token_seconds_count",),
    "inter_token_seconds": ("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum"),
    "inter_token_count": ("vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count"),
}
_FIELDS = [(field, [b"\n" + name.encode() for name in names]) for field, names in _PLAIN.items()]

COUNTERS = tuple(field for field in _PLAIN if field not in ("running", "waiting", "kv_usage"))
"""The fields of `Reading` that only grow while an engine lives."""
_SUMS = frozenset(field for field, names in _PLAIN.items() if names[0].endswith("_sum"))
_WOBBLE = 1e-6
"""Part by which a sum of floats may seem to shrink: added up in another order it ends on other last digits."""


class _Page:
    """The text, and how far it was read: names are asked for in the engine's order, so one pass finds them all."""

    __slots__ = ("_at", "_data")

    def __init__(self, text: bytes) -> None:
        self._data = b"\n%b\n" % text
        self._at = 0

    def samples(self, name: bytes) -> list[tuple[bytes, float]]:
        """Labels and value of every sample of one metric; `name` starts with a line feed."""
        data = self._data
        found: list[tuple[bytes, float]] = []
        at = self._find(name)
        if at < 0:
            return found
        stop = data.find(b"\n# ", at)  # a family's samples stand together, and the next family begins with a comment
        if stop < 0:
            stop = len(data)
        while at >= 0:
            match = _SAMPLE.match(data, at + len(name))
            value = _number(match[2]) if match else None
            if match and value is not None:
                found.append((match[1] or b"", value))
            at = data.find(name, at + len(name), stop)
        self._at = stop
        return found

    def _find(self, name: bytes) -> int:
        for start in (self._at, 0):
            at = self._data.find(name, start)
            while at >= 0:
                if self._data[at + len(name)] in b"{ \t":  # else a longer name that begins alike
                    return at
                at = self._data.find(name, at + len(name))
            if start == 0:
                break
        return -1


def parse_metrics(text: bytes) -> list[Reading]:
    """One reading per rank, lowest first; empty when the text is not vLLM's. Never raises: bad lines are skipped."""
    page = _Page(text)
    ranks: dict[int, Reading] = {}
    started = page.samples(b"\nprocess_start_time_seconds")
    for field, names in _FIELDS:
        for name in names:
            samples = page.samples(name)
            for labels, value in samples:
                reading = _reading(ranks, labels)
                before = getattr(reading, field)
                setattr(reading, field, value if before is None else before + value)
            if samples:
                break
    _read_cache_config(page, ranks)
    _read_sleep(page, ranks)
    _read_adapters(page, ranks)
    if started:
        for reading in ranks.values():
            reading.started_at = started[0][1]
    return [ranks[rank] for rank in sorted(ranks)]


def restarted(before: list[Reading], after: list[Reading]) -> bool:
    """Whether an engine started between the two: its start time changed, or a total ran backwards."""
    earlier = {reading.rank: reading for reading in before}
    for reading in after:
        known = earlier.get(reading.rank)
        if known is None:
            continue
        began, begins = known.started_at, reading.started_at
        if began is not None and begins is not None and abs(begins - began) > 1.0:
            return True
        for field in COUNTERS:
            old, new = getattr(known, field), getattr(reading, field)
            if old is None or new is None or new >= old:
                continue
            if field not in _SUMS or old - new > _WOBBLE * old:
                return True
    return False


def _reading(ranks: dict[int, Reading], labels: bytes) -> Reading:
    match = _ENGINE.search(labels)
    rank = int(match[1]) if match else 0
    reading = ranks.get(rank)
    if reading is None:
        reading = ranks[rank] = Reading(rank)
    return reading


def _read_cache_config(page: _Page, ranks: dict[int, Reading]) -> None:
    for labels, _ in page.samples(b"\nvllm:cache_config_info"):
        reading = _reading(ranks, labels)
        config = {match[1]: match[2] for match in _CACHE_LABEL.finditer(labels)}
        size = _whole(config.get(b"block_size"))
        blocks = _whole(config.get(b"num_gpu_blocks"))
        tokens = _whole(config.get(b"kv_cache_size_tokens"))
        if tokens is None and size is not None and blocks is not None:
            tokens = size * blocks
        reading.block_size = size
        reading.capacity_tokens = None if tokens is None else float(tokens)
        caching = config.get(b"enable_prefix_caching")
        reading.prefix_caching = None if caching is None else caching == b"True"


def _read_sleep(page: _Page, ranks: dict[int, Reading]) -> None:
    for labels, value in page.samples(b"\nvllm:engine_sleep_state"):
        if b'sleep_state="awake"' in labels:
            _reading(ranks, labels).asleep = value == 0.0


def _read_adapters(page: _Page, ranks: dict[int, Reading]) -> None:
    newest: dict[int, float] = {}
    for labels, stamp in page.samples(b"\nvllm:lora_requests_info"):
        # One sample per combination of adapters ever seen; its value is when it was last true.
        reading = _reading(ranks, labels)
        if stamp < newest.get(reading.rank, -math.inf):
            continue
        newest[reading.rank] = stamp
        info = _labels(labels)
        reading.running_adapters = _names(info.get("running_lora_adapters", ""))
        reading.waiting_adapters = _names(info.get("waiting_lora_adapters", ""))
        reading.max_adapters = _whole(info.get("max_lora", "").encode())


def _labels(labels: bytes) -> dict[str, str]:
    return {
        match[1].decode("ascii"): _ESCAPE.sub(_unescaped, match[2].decode("utf-8", "replace"))
        for match in _LABEL.finditer(labels)
    }


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def _names(joined: str) -> tuple[str, ...]:
    return tuple(name for name in joined.split(",") if name)


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(text: bytes | None) -> int | None:
    """A positive whole number, or None: vLLM writes "None" for what it does not know yet."""
    if text is None or not text.isdigit() or len(text) > 18:
        return None
    return int(text) or None
