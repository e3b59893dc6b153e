"""Every metric that the router exports: name, type, labels, meaning. docs/metrics.md must say the same."""

from __future__ import annotations

from typing import Literal

import msgspec


class Metric(msgspec.Struct, frozen=True):
    """One line of the catalogue. A counter's samples are called `NAME_total`, and `name` says so."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


_REQUEST = ("model", "replica")
_REPLICA = ("replica",)

INFO = Metric("kvroute_info", "gauge", ("version", "policy"), "Always 1; tells version and policy.")
REQUESTS = Metric("kvroute_requests_total", "counter", ("outcome", *_REQUEST), "Requests ended, by outcome.")
IN_FLIGHT = Metric("kvroute_in_flight", "gauge", _REQUEST, "Requests forwarded and not ended.")
RETRIES = Metric("kvroute_retries_total", "counter", _REQUEST, "Failed attempts that were followed by another.")
TTFT = Metric("kvroute_ttft_seconds", "histogram", _REQUEST, "From request to first output; streams only.")
PREDICTED_TTFT = Metric(
    "kvroute_predicted_ttft_seconds",
    "histogram",
    _REQUEST,
    "Predicted TTFT of the same requests as in kvroute_ttft_seconds.",
)
TTFT_ERROR = Metric(
    "kvroute_ttft_error_seconds", "histogram", _REQUEST, "Distance between predicted and observed TTFT."
)
INTER_CHUNK = Metric(
    "kvroute_inter_chunk_seconds", "histogram", _REQUEST, "Mean time between two pieces of one stream."
)
TOTAL = Metric("kvroute_request_seconds", "histogram", _REQUEST, "From request to last byte of a completed reply.")
PROMPT = Metric("kvroute_prompt_tokens_total", "counter", _REQUEST, "Prompt tokens decided on, as the router counts.")
PREDICTED_CACHED = Metric(
    "kvroute_predicted_cached_tokens_total", "counter", _REQUEST, "Of those, believed cached at the chosen replica."
)
BEST_CACHED = Metric(
    "kvroute_best_cached_tokens_total", "counter", _REQUEST, "Of those, believed cached where most were."
)
REGRET = Metric(
    "kvroute_cache_regret_tokens_total", "counter", _REQUEST, "Best minus predicted: hits given up for shorter queues."
)
REPORTED_PROMPT = Metric(
    "kvroute_reported_prompt_tokens_total", "counter", _REQUEST, "Prompt tokens of replies that told cached tokens."
)
REPORTED_CACHED = Metric(
    "kvroute_reported_cached_tokens_total", "counter", _REQUEST, "Cached tokens that the engine told."
)
ANSWERED = Metric(
    "kvroute_answered_total",
    "counter",
    ("status",),
    "Requests that the router answered itself with an error, by status.",
)
POISONED = Metric("kvroute_poisoned_total", "counter", (), "Requests given up because two endpoints failed on them.")
BUDGET_SPENT = Metric(
    "kvroute_retry_budget_spent_total", "counter", (), "Tries not made because the retry budget was spent."
)
DECISION = Metric("kvroute_decision_seconds", "histogram", (), "Hash, look-up, decision and reservation.")
LOOP_LAG = Metric("kvroute_event_loop_lag_seconds", "histogram", (), "How late the event loop ran a timer.")
CONNECTIONS = Metric("kvroute_connections_total", "counter", (), "Client connections accepted.")
OPEN_CONNECTIONS = Metric("kvroute_open_connections", "gauge", (), "Client connections open.")
REFUSED = Metric("kvroute_refused_total", "counter", (), "Requests that the data plane itself answered with an error.")
CUT = Metric("kvroute_cut_total", "counter", (), "Replies that broke mid-way and were cut visibly.")
BODY_BYTES = Metric("kvroute_body_bytes", "gauge", (), "Request bytes held in memory.")
UPSTREAM_CONNECTS = Metric("kvroute_upstream_connects_total", "counter", (), "Connections opened to replicas.")
UPSTREAM_REUSED = Metric("kvroute_upstream_reused_total", "counter", (), "Requests begun on a kept connection.")
EJECTIONS = Metric("kvroute_ejections_total", "counter", _REPLICA, "Times a replica was ejected.")
RESTARTS = Metric("kvroute_restarts_total", "counter", _REPLICA, "Times an engine was seen to have restarted.")
PLUGIN_FAILURES = Metric(
    "kvroute_plugin_failures_total",
    "counter",
    ("plugin",),
    "Calls of a scorer or policy that raised or answered nonsense.",
)
REPLICA_STATE = Metric("kvroute_replica_state", "gauge", ("replica", "state"), "1 for the state that it is in, else 0.")
REPLICA_REQUESTS = Metric(
    "kvroute_replica_requests", "gauge", _REPLICA, "Requests running and waiting there, others' included."
)
REPLICA_DECODING = Metric("kvroute_replica_decoding", "gauge", _REPLICA, "Sequences past their first output.")
REPLICA_QUEUED = Metric(
    "kvroute_replica_queued_tokens", "gauge", _REPLICA, "Uncached prompt tokens sent there without first output yet."
)
REPLICA_QUEUE_SECONDS = Metric(
    "kvroute_replica_queue_seconds", "gauge", _REPLICA, "Predicted seconds to prefill those."
)
REPLICA_BUSY = Metric(
    "kvroute_replica_busy_ratio", "gauge", _REPLICA, "30 s moving share of time with a request without first output."
)
REPLICA_RATE = Metric(
    "kvroute_replica_prefill_tokens_per_second", "gauge", _REPLICA, "Learned prefill rate at its present load."
)
REPLICA_STEP = Metric("kvroute_replica_step_seconds", "gauge", _REPLICA, "Learned time of one decode step.")
REPLICA_CACHED = Metric("kvroute_replica_cached_tokens", "gauge", _REPLICA, "KV tokens that it is believed to hold.")
REPLICA_CAPACITY = Metric("kvroute_replica_capacity_tokens", "gauge", _REPLICA, "Size of its KV cache.")

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
