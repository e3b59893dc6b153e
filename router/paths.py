"""Which paths are the router's own, which manage an engine, and which are work for one replica.

Paths are percent-decoded by the data plane, as the engine decodes them: /%73leep is /sleep here.
"""

from __future__ import annotations

import re

LOCAL = frozenset({b"/health", b"/ready", b"/v1/models", b"/version", b"/metrics", b"/ping"})
"""Answered by the router itself (GET)."""

MANAGEMENT = frozenset(
    {
        b"/sleep",
        b"/wake_up",
        b"/pause",
        b"/resume",
        b"/is_paused",
        b"/is_sleeping",
        b"/collective_rpc",
        b"/abort_requests",
        b"/release_kv_cache_memory",
        b"/resume_kv_cache_memory",
        b"/server_info",
        b"/start_profile",
        b"/stop_profile",
        b"/v1/load_lora_adapter",
        b"/v1/unload_lora_adapter",
        b"/scale_elastic_ep",
        b"/is_scaling_elastic_ep",
    }
)
"""They change or stop an engine: 403 unless enabled, and then sent to every replica."""

MANAGEMENT_PREFIXES = (
    b"/reset_",
    b"/update_weights",
    b"/init_weight",
    b"/start_weight",
    b"/finish_weight",
    b"/get_world",
)

_RESPONSE = re.compile(rb"^/v1/responses/([^/]+)(?:/cancel|/input_items)?$")


def is_management(path: bytes) -> bool:
    """True for a path that manages the engine rather than asking it for work."""
    path = b"/" + path.strip(b"/") if path.endswith(b"/") or path.startswith(b"//") else path
    return path in MANAGEMENT or path.startswith(MANAGEMENT_PREFIXES)


def response_id(path: bytes) -> str | None:
    """The id in /v1/responses/{id}[/cancel], else None."""
    match = _RESPONSE.match(path)
    return match.group(1).decode("latin-1") if match else None
