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
DECISIONS_WRITTEN = Metric("kvroute_decision_log_lines_total", "counter", (), "Lines written to the decision log.")
DECISIONS_DROPPED = Metric(
    "kvroute_decision_log_dropped_total", "counter", (), "Lines that could not be written to the decision log."
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
REPLICA_KNOWLEDGE = Metric(
    "kvroute_replica_knowledge", "gauge", ("replica", "source"), "1 for the source that the knowledge is of, else 0."
)
REPLICA_EXPECTED = Metric("kvroute_replica_expected_blocks", "gauge", _REPLICA, "Blocks expected of what was sent.")
REPLICA_OBSERVED = Metric(
    "kvroute_replica_observed_blocks", "gauge", ("replica", "medium"), "Blocks that its KV events tell of."
)


def _counter(name: str, help: str, labels: tuple[str, ...] = _REPLICA) -> Metric:
    return Metric(f"kvroute_{name}_total", "counter", labels, help)


def _gauge(name: str, help: str, labels: tuple[str, ...] = _REPLICA) -> Metric:
    return Metric(f"kvroute_{name}", "gauge", labels, help)


CANARY_PREDICTED = _counter("canary_predicted_tokens", "Predicted to be cached, of compared requests.")
CANARY_REPORTED = _counter("canary_reported_tokens", "Reported as cached by the engine, of the same requests.")
CANARY_MISSING = _counter("canary_missing_tokens", "Predicted and not found.")
CANARY_UNKNOWN = _counter("canary_unknown_tokens", "Found and not predicted.")
CANARY_DISAGREEMENT = _gauge("canary_disagreement_ratio", "Share that prediction and report disagree about.")
CANARY_ALARM = _gauge("canary_alarm", "1 while they have parted.")
CANARY_ALARMS = _counter("canary_alarms", "Times that the alarm was raised.")

EVENTS_CONNECTED = _gauge("events_connected", "1 while the connection to its publisher stands.")
EVENTS_SILENCE = _gauge("events_silence_seconds", "Since its last batch of KV events came.")
EVENTS_DISCONNECTS = _counter("events_disconnects", "Times that the connection to its publisher was lost.")
EVENTS_MESSAGES = _counter("events_messages", "Messages of its publisher.")
EVENTS_BAD_MESSAGES = _counter("events_bad_messages", "Of those, no batches of its topic.")
EVENTS_BATCHES = _counter("events_batches", "Batches applied, live or from a replay.")
EVENTS_DUPLICATES = _counter("events_duplicate_batches", "Batches that had been applied before.")
EVENTS_MALFORMED = _counter("events_malformed_batches", "Batches that could not be read.")
EVENTS_STORED = _counter("events_stored_blocks", "Blocks that entered what is observed.")
EVENTS_REMOVED = _counter("events_removed_blocks", "Blocks that left it.")
EVENTS_REMOVED_UNKNOWN = _counter("events_removed_unknown_blocks", "Blocks removed that were not known.")
EVENTS_COPIED_UNKNOWN = _counter("events_copied_unknown_blocks", "Blocks copied that were not known.")
EVENTS_CLEARED = _counter("events_cleared", "Times that the engine forgot its whole cache.")
EVENTS_IGNORED = _counter("events_ignored_blocks", "Blocks of groups that are no plain prefixes.")
EVENTS_UNUSABLE = _counter("events_unusable_blocks", "Blocks of a wrong size, or without their tokens.")
EVENTS_UNKNOWN = _counter("events_unknown", "Events of kinds that are not known.")
EVENTS_ORPHANS = _counter("events_orphan_blocks", "Blocks kept aside because their parent was unknown.")
EVENTS_ANCHORED = _counter("events_anchored_blocks", "Of those, blocks whose place was found.")
EVENTS_DROPPED = _counter("events_dropped_orphan_blocks", "Of those, blocks given up for lack of room.")
EVENTS_GAPS = _counter("events_gaps", "Times that batches were missing.")
EVENTS_LOST = _counter("events_lost", "Times that they could not be had again.")
EVENTS_RESTARTS = _counter("events_restarts", "Times that its events began anew.")
REPLAYS_ASKED = _counter("events_replays", "Replays asked for.")
REPLAYS_UNANSWERED = _counter("events_unanswered_replays", "Of those, met by silence or an endless answer.")
REPLAYS_GIVEN_UP = _counter("events_given_up_replays", "Times that missing batches could not be had.")

LENS = Metric("kvroute_lens", "gauge", ("model", "lens"), "1 for the lens that reads the model's prompts, else 0.")
LENS_PROMPTS = Metric("kvroute_lens_prompts_total", "counter", ("model", "how"), "Prompts read as tokens, by how.")
LENS_FAULTS = Metric(
    "kvroute_lens_unrendered_total", "counter", ("model", "reason"), "Prompts not rendered to their end, by reason."
)
LENS_BACKLOG = _gauge("lens_backlog_characters", "Handed to the tokenizer and not encoded yet.", ("model",))
LENS_CACHE = _gauge("lens_cache_bytes", "Token ids kept of recent stretches of text.", ("model",))

SHARING_STATE = Metric("kvroute_sharing_state", "gauge", ("state",), "1 for the state of the shared store, else 0.")
SHARING_FAILURES = Metric(
    "kvroute_sharing_failures_total", "counter", ("kind",), "Calls that the shared store did not serve, by kind."
)
SHARING_ROUND_TRIP = _gauge("sharing_round_trip_seconds", "Of a batch of writes, moving mean.", ())
SHARING_LAG = _gauge("sharing_lag_seconds", "How old what is heard of other routers may be.", ())
SHARING_ROUTERS = _gauge("sharing_routers", "Other routers that are alive.", ())
SHARING_FOREIGN = _gauge("sharing_foreign_requests", "Open requests of other routers.", ())
SHARING_WAITING = _gauge("sharing_waiting_records", "Records that are still to be told.", ())
SHARING_COLD = _gauge("sharing_cold_replicas", "Replicas whose log has not been read from its beginning yet.", ())
SHARING_INGESTING = _gauge("sharing_ingesting_replicas", "Replicas whose KV events this router follows for all.", ())
SHARING_FLUSHES = _counter("sharing_flushes", "Batches of records that were told.", ())
SHARING_TOLD = _counter("sharing_told_records", "Records told to other routers.", ())
SHARING_HEARD = _counter("sharing_heard_records", "Records of other routers taken in.", ())
SHARING_DROPPED = _counter("sharing_dropped_records", "Records not told for lack of room.", ())
SHARING_LOST = _counter("sharing_lost_entries", "Entries of others that were gone before they were read.", ())
SHARING_REPEATED = _counter("sharing_repeated_entries", "Entries of others that came again.", ())
SHARING_MALFORMED = _counter("sharing_malformed_entries", "Entries that no router of this version wrote.", ())
SHARING_LAPSES = _counter("sharing_lapses", "Times that others may have given this router up.", ())
SHARING_GAPS = _counter("sharing_observed_gaps", "Times that an observed log went on elsewhere.", ())
SHARING_SNAPSHOTS = _counter("sharing_snapshots_loaded", "Times that an observed log was read from its snapshot.", ())

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
